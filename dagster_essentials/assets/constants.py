"""The course's constants: dates and file paths, taken from the settings and absolute."""

from dagster_essentials import settings

START_DATE = settings.SETTINGS.start_date
END_DATE = settings.SETTINGS.end_date
DATE_FORMAT = "%Y-%m-%d"

# Braces in the folder's name are not placeholders.
_DATA = str(settings.SETTINGS.data_dir).replace("{", "{{").replace("}", "}}")

TAXI_ZONES_FILE_PATH = str(settings.SETTINGS.data_dir / "raw" / "taxi_zones.csv")
TAXI_TRIPS_TEMPLATE_FILE_PATH = f"{_DATA}/raw/taxi_trips_{{}}.parquet"
# Placeholders: fleet, month.
FLEET_TRIPS_TEMPLATE_FILE_PATH = f"{_DATA}/raw/{{}}_trips_{{}}.parquet"

TRIPS_BY_WEEK_FILE_PATH = str(settings.SETTINGS.data_dir / "outputs" / "trips_by_week.csv")
TRIPS_BY_FLEET_FILE_PATH = str(settings.SETTINGS.data_dir / "outputs" / "trips_by_fleet.csv")
TRIPS_BY_FLEET_PLOT_FILE_PATH = str(settings.SETTINGS.data_dir / "outputs" / "trips_by_fleet.png")
MANHATTAN_STATS_FILE_PATH = str(settings.SETTINGS.data_dir / "staging" / "manhattan_stats.geojson")
MANHATTAN_MAP_FILE_PATH = str(settings.SETTINGS.data_dir / "outputs" / "manhattan_map.png")
REPORT_FILE_PATH = str(settings.SETTINGS.data_dir / "outputs" / "report.html")

REQUEST_DESTINATION_TEMPLATE_FILE_PATH = f"{_DATA}/outputs/{{}}.png"
