"""The number of trips in each month that the TLC has published, in thousands.

From the files' parquet footers, as of November 2026. Of 2009 to 2013, only sums were at hand, so each of their months has
the mean: 170.9 million trips in 2009, and 689.1 million in the four years after it, which is what is left of the 1,763.5
million trips up to August 2024.
"""

from collections.abc import Mapping, Sequence

TRIPS: Mapping[int, Sequence[int]] = {
    2009: [14_242] * 12,
    2010: [14_355] * 12,
    2011: [14_355] * 12,
    2012: [14_355] * 12,
    2013: [14_355] * 12,
    2014: [13783, 13064, 15428, 14619, 14774, 13813, 13104, 12699, 13424, 14318, 13310, 13112],
    2015: [12741, 12442, 13343, 13064, 13158, 12325, 11560, 11123, 11218, 12307, 11305, 11453],
    2016: [10905, 11375, 12204, 11928, 11832, 11132, 10294, 9942, 10116, 10855, 10102, 10447],
    2017: [9711, 9170, 10295, 10047, 10102, 9657, 8588, 8422, 8945, 9769, 9285, 9509],
    2018: [8761, 8493, 9431, 9306, 9225, 8715, 7851, 7855, 8049, 8835, 8155, 8196],
    2019: [7697, 7049, 7867, 7476, 7598, 6972, 6310, 6073, 6568, 7214, 6878, 6896],
    2020: [6405, 6299, 3008, 238, 348, 550, 800, 1007, 1341, 1681, 1509, 1462],
    2021: [1370, 1372, 1925, 2171, 2507, 2834, 2822, 2789, 2964, 3464, 3473, 3214],
    2022: [2464, 2979, 3628, 3600, 3588, 3558, 3174, 3153, 3184, 3675, 3253, 3400],
    2023: [3067, 2914, 3404, 3288, 3514, 3307, 2907, 2824, 2847, 3522, 3340, 3377],
    2024: [2965, 3008, 3583, 3514, 3724, 3539, 3077, 2979, 3633, 3834, 3646, 3668],
    2025: [3475, 3578, 4145, 3971, 4592, 4323, 3899, 3574, 4251, 4429, 4181, 4305],
    2026: [3725, 3400, 3952, 3831, 4091, 3837, 3530, 3337],
}

FLEET_TRIPS_2024: Mapping[str, Sequence[int]] = {
    "green": [57, 54, 57, 56, 61, 55, 52, 52, 54, 56, 52, 54],
    "fhv": [1290, 1176, 1469, 1445, 1353, 1387, 1383, 1484, 1718, 1421, 1591, 1913],
    "fhvhv": [19664, 19359, 21281, 19733, 20705, 20123, 19183, 19128, 19210, 20028, 19988, 21069],
}
"""The same of the other fleets in 2024."""


def published_trips(scale: float) -> dict[str, int]:
    """The number of trips of each month (``YYYY-MM``), in order, times `scale`."""
    return {
        f"{year}-{number:02}": round(thousands * 1000 * scale)
        for year, months in TRIPS.items()
        for number, thousands in enumerate(months, start=1)
    }
