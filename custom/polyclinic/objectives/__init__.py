"""Losses and schedules that never cross the wall."""
