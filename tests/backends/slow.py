"""A metric that takes its time, so that something can happen meanwhile."""

import os
import time


def slow_top1(outputs, labels):
    time.sleep(float(os.environ.get("MOEASH_TEST_SLOW_S", "0.05")))
    return (outputs.argmax(1) == labels).float()


slow_top1.best = 1.0
