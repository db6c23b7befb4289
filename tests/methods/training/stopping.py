"""Trainings that end before their time."""

STOPPED_AT = 5
"""The step in front of which they do."""


class Stopped:
    """A trainee whose training is interrupted."""

    def __init__(self, trainee):
        self.trainee = trainee

    def __getattr__(self, name):
        return getattr(self.trainee, name)

    def step(self, seen):
        if seen.step == STOPPED_AT:
            raise KeyboardInterrupt
        return self.trainee.step(seen)
