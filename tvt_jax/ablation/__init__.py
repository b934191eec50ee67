"""Trainings that differ in one choice, side by side: run, evaluated and compared."""
