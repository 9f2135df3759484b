"""The settings of the Celery workers. dagster_celery imports this module if its folder is in PYTHONPATH."""

import os

broker_url = os.environ["TAXI_CELERY_BROKER"]
result_backend = os.environ["TAXI_CELERY_BACKEND"]
broker_connection_retry_on_startup = True
# A run that was fetched while another one is executed would wait, with other workers idle.
worker_prefetch_multiplier = 1
