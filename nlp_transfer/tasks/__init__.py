"""What is learned: one class a task, one line in this table."""

from nlp_transfer.tasks.base import BestMetric, Task
from nlp_transfer.tasks.sentiment import SentimentOptions, SentimentTask

TASKS: dict[str, type[Task]] = {
    "sentiment": SentimentTask,
}

__all__ = ["TASKS", "BestMetric", "SentimentOptions", "SentimentTask", "Task"]
