"""The green sample months: taxis that are hailed outside the centre of Manhattan.

Names, types and shares are those of the published months from January 2014 on. Of those before 2019, only that the codes
are integers is known, and which columns are null-typed in some months of 2014.
"""

from dagster_essentials.ingestion.months import month_number
from dagster_essentials.sample.rows import drawn_zone, draws, month_seconds, value_in

SALT = 10_000_000
"""Its trips have other random numbers than those of the other fleets."""

# The types of the columns, from a month on. INTEGER: published as null-typed, INT32 in the file, every value null.
ID_TYPE = {"2014-01": "BIGINT", "2023-02": "INTEGER"}
CODE_TYPE = {"2014-01": "BIGINT", "2019-01": "DOUBLE", "2023-02": "BIGINT"}
EHAIL_FEE_TYPE = {"2014-01": "INTEGER", "2019-01": "DOUBLE", "2019-09": "INTEGER", "2023-02": "DOUBLE"}
# The fees of these began in January 2015 and in January 2019.
IMPROVEMENT_SURCHARGE_TYPE = {"2014-01": "INTEGER", "2015-01": "DOUBLE"}
CONGESTION_SURCHARGE_TYPE = {"2014-01": "INTEGER", "2019-01": "DOUBLE"}
IMPROVEMENT_SURCHARGE = {"2014-01": "NULL", "2015-01": "sign * 0.3", "2023-01": "sign * 1.0"}
CONGESTION_SURCHARGE = {"2014-01": "NULL", "2019-01": "if(app, NULL, if(surcharged < 0.26, sign * 2.75, 0.0))"}

# Shares of the trips of 2019-01 to 2026-06, 12.23 million: those without the values that a taximeter sends, and 35,396,
# 419,807, 4,372 and 23,619. Of 370,000 trips of six months, 81 are outside their month.
WITHOUT_METER = {"2014-01": 0.0, "2019-01": 0.15}
NEGATIVE_FARE = 0.0029
NO_DISTANCE = 0.0343
LONG_DISTANCE = 0.00036
NO_DURATION = 0.0019
OUTSIDE_MONTH = 0.00022
# Of three real months, ten, five and three trips have no trip type, though they have the other values.
NO_TRIP_TYPE = 0.0001
# 238 exact duplicates among the 12.23 million.
DUPLICATE_EVERY = 51_000

DRAWS = (
    *(
        "jitter",
        "moment",
        "outside",
        "duration",
        "distance",
        "outlier",
        "pickup_zone",
        "dropoff_zone",
        "vendor",
        "meter",
    ),
    *("payment", "rate", "passengers", "fare", "extras", "tip", "toll", "negative", "stopped", "surcharged"),
)


def green_trips(month: str, rows: int) -> str:
    """The query for `rows` trips with the columns of `month`."""
    id_type, code_type = value_in(ID_TYPE, month), value_in(CODE_TYPE, month)
    return f"""
{_rides(month, rows)}
SELECT
    CASE WHEN app AND vendor < 0.1 AND {month >= "2025-01"} THEN 6 WHEN vendor < 0.14 THEN 1 ELSE 2 END::{id_type} AS VendorID,
    pickup AS lpep_pickup_datetime,
    pickup + to_seconds(trip_seconds) AS lpep_dropoff_datetime,
    if(app, NULL, if(rate < 0.004, 'Y', 'N')) AS store_and_fwd_flag,
    if(app, NULL, CASE WHEN rate < 0.97 THEN 1 WHEN rate < 0.973 THEN 2 WHEN rate < 0.974 THEN 3 WHEN rate < 0.975 THEN 4
        WHEN rate < 0.9998 THEN 5 ELSE 99 END)::{code_type} AS RatecodeID,
    {drawn_zone("pickup_zone")}::{id_type} AS PULocationID,
    {drawn_zone("dropoff_zone")}::{id_type} AS DOLocationID,
    if(app, NULL, [1, 1, 1, 1, 1, 1, 1, 2, 2, 3, 4, 5, 6, 0][1 + (passengers * 13)::INTEGER])::{code_type} AS passenger_count,
    miles AS trip_distance,
    fare_amount, extra, mta_tax, tip_amount, tolls_amount,
    NULL::{value_in(EHAIL_FEE_TYPE, month)} AS ehail_fee,
    improvement_surcharge,
    cents(fare_amount + extra + mta_tax + tip_amount + tolls_amount + coalesce(improvement_surcharge, 0)
        + coalesce(congestion_surcharge, 0) {"+ cbd_congestion_fee" if month >= "2025-01" else ""}) AS total_amount,
    if(app, NULL, CASE WHEN payment < 0.65 THEN 1 WHEN payment < 0.99 THEN 2 WHEN payment < 0.997 THEN 3 ELSE 4 END)::{code_type}
        AS payment_type,
    if(app OR rate < {NO_TRIP_TYPE}, NULL, if(rate > 0.975, 2, 1))::{code_type} AS trip_type,
    congestion_surcharge
    {", cbd_congestion_fee" if month >= "2025-01" else ""}
    {", if(app, ['HV0003', 'HV0005'][1 + (tip > 0.4)::INTEGER], NULL) AS request_source" if month >= "2026-06" else ""}
FROM ridden
"""


def _rides(month: str, rows: int) -> str:
    """The trips as the table expression `ridden`, before they get the types of their month."""
    salt = SALT + month_number(month) * 100
    seconds = month_seconds(month)
    improvement = f"({value_in(IMPROVEMENT_SURCHARGE, month)})::{value_in(IMPROVEMENT_SURCHARGE_TYPE, month)}"
    congestion = f"({value_in(CONGESTION_SURCHARGE, month)})::{value_in(CONGESTION_SURCHARGE_TYPE, month)}"
    return f"""
WITH drawn AS (
    -- j is i, except for the duplicates, which repeat the previous trip in every column.
    SELECT if(i % {DUPLICATE_EVERY} = {DUPLICATE_EVERY // 2}, i - 1, i) AS j, {draws(DRAWS, salt)}
    FROM (SELECT range AS i FROM range({rows}))
), moved AS (
    SELECT *,
        CASE
            -- Some meters have another year; the other trips began in the last hour of the month before.
            WHEN outside < {OUTSIDE_MONTH} * 0.1 THEN make_timestamp(2008 + floor(moment * 55)::BIGINT, 1, 1, 12, 0, 0)
            WHEN outside < {OUTSIDE_MONTH} THEN TIMESTAMP '{month}-01' - to_seconds(1 + floor(moment * 3600)::BIGINT)
            ELSE TIMESTAMP '{month}-01'
                + to_seconds(least(floor(j / {rows} * {seconds} + jitter * 7200)::BIGINT, {seconds} - 1))
        END AS pickup,
        CASE
            WHEN outlier < {NO_DISTANCE} THEN 0.0
            WHEN outlier > {1 - LONG_DISTANCE} THEN cents(200.0 + distance * distance * 224281)
            ELSE cents(0.3 + 2.3 * -ln(1 - distance * 0.9999))
        END AS miles,
        meter < {value_in(WITHOUT_METER, month)} AS app,
        if(negative < {NEGATIVE_FARE}, -1, 1) AS sign
    FROM drawn
), ridden AS (
    SELECT *,
        if(stopped < {NO_DURATION}, 0, 60 + floor(duration * 600 + least(miles, 60.0) * 250))::BIGINT AS trip_seconds,
        cents(sign * (3.0 + floor(least(miles, 100.0) * 5) * 0.7 + floor(fare * 8) * 0.7)) AS fare_amount,
        (sign * [0.0, 0.0, 0.5, 1.0, 2.5][1 + (extras * 4)::INTEGER])::DOUBLE AS extra,
        (sign * if(extras < 0.92, 0.5, 0.0))::DOUBLE AS mta_tax,
        if(payment < 0.65 AND tip < 0.6, cents(sign * floor(1 + tip * 24) * 0.25), 0.0)::DOUBLE AS tip_amount,
        if(toll < 0.03, sign * 6.94, 0.0)::DOUBLE AS tolls_amount,
        {improvement} AS improvement_surcharge,
        {congestion} AS congestion_surcharge,
        if(surcharged < 0.08, sign * 0.75, 0.0)::DOUBLE AS cbd_congestion_fee
    FROM moved
)"""
