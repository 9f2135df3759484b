"""The yellow taxis: the columns of `trips`, the layouts of their files since 2009, and the data quality rules.

`legacy_columns.py` turns what the months of 2009 and 2010 have instead of codes and zones into these.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from dagster_essentials.datasets import legacy_columns
from dagster_essentials.datasets.codes import PAYMENTS, RATES, VENDORS, describe
from dagster_essentials.datasets.publisher import TLC
from dagster_essentials.datasets.shared_rules import dropoff_after_pickup, pickups_in_month, zones_known
from dagster_essentials.ingestion.dataset import Column, Dataset, Layout, QualityRule

# The first eleven are the course's, in its order and with its types; a database made by its code has just these.
_COLUMNS: Sequence[Column] = (
    Column("vendor_id", "INTEGER", "VendorID", True, f"Recorded by {describe(VENDORS)}"),
    Column("pickup_zone_id", "INTEGER", "PULocationID", True, "Zone of the pickup; 264 unknown, 265 outside the city"),
    Column(
        "dropoff_zone_id", "INTEGER", "DOLocationID", True, "Zone of the drop-off; 264 unknown, 265 outside the city"
    ),
    Column("rate_code_id", "DOUBLE", "RatecodeID", True, describe(RATES)),
    Column("payment_type", "INTEGER", "payment_type", True, describe(PAYMENTS)),
    Column("dropoff_datetime", "TIMESTAMP", "tpep_dropoff_datetime", True, "End of the trip, New York local time"),
    Column("pickup_datetime", "TIMESTAMP", "tpep_pickup_datetime", True, "Start of the trip, New York local time"),
    Column("trip_distance", "DOUBLE", "trip_distance", True, "Miles, by the taximeter"),
    Column("passenger_count", "DOUBLE", "passenger_count", True, "Passengers, as the driver entered them"),
    Column("total_amount", "DOUBLE", "total_amount", True, "US dollars charged in all, without cash tips"),
    Column("partition_date", "VARCHAR", None, True, "Month of the file, YYYY-MM"),
    Column("fare_amount", "DOUBLE", "fare_amount", True, "US dollars, by time and distance"),
    Column("extra", "DOUBLE", "extra", True, "US dollars, rush hour and overnight charges and others"),
    Column("mta_tax", "DOUBLE", "mta_tax", True, "US dollars, tax of the Metropolitan Transportation Authority"),
    Column("tip_amount", "DOUBLE", "tip_amount", True, "US dollars, card tips only"),
    Column("tolls_amount", "DOUBLE", "tolls_amount", True, "US dollars, all tolls of the trip"),
    Column(
        "improvement_surcharge", "DOUBLE", "improvement_surcharge", False, "US dollars, at the flag drop; since 2015"
    ),
    Column("congestion_surcharge", "DOUBLE", "congestion_surcharge", False, "US dollars, state surcharge; since 2019"),
    Column("airport_fee", "DOUBLE", "airport_fee", False, "US dollars, pickups at LaGuardia and JFK"),
    Column("cbd_congestion_fee", "DOUBLE", "cbd_congestion_fee", False, "US dollars, congestion zone; since 2025"),
    Column(
        "store_and_fwd_flag",
        "VARCHAR",
        "store_and_fwd_flag",
        True,
        "Y if the record was held in the vehicle before it was sent, else N",
    ),
    Column("request_source", "VARCHAR", "request_source", False, "How the trip was requested, a code; since 2026-06"),
    *(
        Column(
            f"{end.replace('-', '')}_{axis}",
            "DOUBLE",
            None,
            True,
            f"Degrees (WGS 84), of the {end}; 2009 and 2010 only",
        )
        for end in ("pickup", "drop-off")
        for axis in ("longitude", "latitude")
    ),
)
# In the months that are known, none of the first seven is ever missing; a vendor is missing in 8 % of 2020-04, and passengers,
# rate code and flag in the flex-fare trips, which `flex_fare_share` counts.
_MAX_MISSING = {
    **dict.fromkeys(("pickup_datetime", "dropoff_datetime", "pickup_zone_id", "dropoff_zone_id"), 0.01),
    **dict.fromkeys(("trip_distance", "fare_amount", "total_amount"), 0.01),
    **dict.fromkeys(("vendor_id", "payment_type"), 0.5),
    "passenger_count": 0.9,
}
COLUMNS = [replace(column, max_missing=_MAX_MISSING.get(column.name)) for column in _COLUMNS]
COURSE_COLUMNS = COLUMNS[:11]

_NAMES = {
    "vendor_id": ("vendor_name", "vendor_id"),
    "pickup_datetime": ("Trip_Pickup_DateTime", "pickup_datetime"),
    "dropoff_datetime": ("Trip_Dropoff_DateTime", "dropoff_datetime"),
    "passenger_count": ("Passenger_Count", "passenger_count"),
    "trip_distance": ("Trip_Distance", "trip_distance"),
    "pickup_longitude": ("Start_Lon", "pickup_longitude"),
    "pickup_latitude": ("Start_Lat", "pickup_latitude"),
    "rate_code_id": ("Rate_Code", "rate_code"),
    "store_and_fwd_flag": ("store_and_forward", "store_and_fwd_flag"),
    "dropoff_longitude": ("End_Lon", "dropoff_longitude"),
    "dropoff_latitude": ("End_Lat", "dropoff_latitude"),
    "payment_type": ("Payment_Type", "payment_type"),
    "fare_amount": ("Fare_Amt", "fare_amount"),
    "extra": ("surcharge", "surcharge"),
    "mta_tax": ("mta_tax", "mta_tax"),
    "tip_amount": ("Tip_Amt", "tip_amount"),
    "tolls_amount": ("Tolls_Amt", "tolls_amount"),
    "total_amount": ("Total_Amt", "total_amount"),
}
NAMES_2009 = {column: name for column, (name, _) in _NAMES.items()}
NAMES_2010 = {column: name for column, (_, name) in _NAMES.items()}
"""For columns of `trips`, their names in the files of 2009 and of 2010."""

# They have coordinates instead of zones, and texts instead of codes and times.
_LEGACY = partial(
    Layout,
    translate=legacy_columns.map_text,
    derive=legacy_columns.map_zones,
    ignored=frozenset({legacy_columns.INDEX}),
)
LAYOUTS = (
    _LEGACY("2009", "2009-12", "Start_Lon", NAMES_2009),
    _LEGACY("2010", "2010-12", "pickup_longitude", NAMES_2010),
    Layout(
        "2011 and later", "9999-12", "PULocationID", {column.name: column.source for column in COLUMNS if column.source}
    ),
)

QUALITY_RULES: Sequence[QualityRule] = (
    pickups_in_month(
        0.01,
        "Real months have up to 0.47 % (2021-02), some of them decades away; above 1 % the file may be another month's.",
    ),
    QualityRule(
        "no_negative_totals",
        "count(*) FILTER (total_amount < 0)",
        0.03,
        "Trips with a negative total: refunds and corrections. 0.2 % in 2019, 1.8 % in 2024; warns above 3 %.",
    ),
    QualityRule(
        "no_zero_distances",
        "count(*) FILTER (trip_distance = 0)",
        0.05,
        "Trips over no distance. 0.9 % in 2019, 3.2 % in 2026; warns above 5 %.",
    ),
    dropoff_after_pickup(
        0.0005,
        "0.014 % in November 2019, all in the night in which the clocks went back, as times are local; warns above 0.05 %.",
    ),
    zones_known(0.05, "0.6 to 2.5 % in samples of 2019, 2020 and 2025; warns above 5 %."),
    QualityRule(
        "flex_fare_share",
        "count(*) FILTER (passenger_count IS NULL AND rate_code_id IS NULL AND store_and_fwd_flag IS NULL)",
        0.40,
        "Flex-fare trips and others without passengers, rate code and flag. They are real trips. 9.9 % in 2024, 26 % in "
        "2026 and growing; warns above 40 %.",
    ),
    QualityRule(
        "no_duplicates",
        # With 64 bits, the probability of a collision among three million trips is one in four million.
        f"count(*) - count(DISTINCT hash({', '.join(column.name for column in COLUMNS)}))",
        0.0001,
        "Trips that repeat another one to the last column. 50 in the 84 million of 2019; warns above 0.01 %.",
        key=("pickup_datetime", "dropoff_datetime", "pickup_zone_id", "dropoff_zone_id", "total_amount"),
    ),
)

YELLOW = Dataset(
    name="yellow",
    title="yellow taxi trips",
    **TLC,
    table="trips",
    comment="Yellow taxi trips of all months that are loaded: one row per trip, as published, no trip dropped",
    first_month="2009-01",
    months_to_publication=2,
    # December 2025, published on 25 March 2026.
    longest_delay_days=83,
    file_asset="taxi_trips_file",
    table_asset="taxi_trips",
    columns=COLUMNS,
    core_columns=len(COURSE_COLUMNS),
    made_by="the course's lessons before the eighth make one like it",
    layouts=LAYOUTS,
    rules=QUALITY_RULES,
    time="pickup_datetime",
    total_amount="total_amount",
    trip_distance="trip_distance",
)
