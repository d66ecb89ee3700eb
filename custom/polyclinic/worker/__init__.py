"""The training process of a site: one warm child that holds the cohort and runs the client half.

It serves one socket (``python -m polyclinic.worker FD PARENT``) until that closes, and knows no
FLARE. It dies with its parent, and offers itself first to the kernel when memory runs out, so
that a cohort too large costs a reply and not the job.
"""
