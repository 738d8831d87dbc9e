"""What a training needs before it is started: memory, batch and time."""

from .devices import DEVICES, Device, find_device
from .plan import Plan, make_plan
from .schedule import Schedule, choose_schedule
from .work import Work, hours_between, training_work

__all__ = [
    'DEVICES',
    'Device',
    'Plan',
    'Schedule',
    'Work',
    'choose_schedule',
    'find_device',
    'hours_between',
    'make_plan',
    'training_work',
]
