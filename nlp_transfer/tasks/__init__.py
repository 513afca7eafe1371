"""What is learned: one class a task, one line in this table."""

from nlp_transfer.tasks.base import BestMetric, Task
from nlp_transfer.tasks.sentiment import SentimentOptions, SentimentTask
from nlp_transfer.tasks.translation import TranslationOptions, TranslationTask

TASKS: dict[str, tuple[type[Task], type]] = {
    "sentiment": (SentimentTask, SentimentOptions),
    "translation": (TranslationTask, TranslationOptions),
}

__all__ = [
    "TASKS",
    "BestMetric",
    "SentimentOptions",
    "SentimentTask",
    "Task",
    "TranslationOptions",
    "TranslationTask",
]
