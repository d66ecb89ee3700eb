"""polyclinic: hospitals that hold different modalities train together on NVIDIA FLARE.

The map of the house. Data flows right, imports point left, one noun on each arrow::

    hospital files -Patient-> data -Batch-> models -embeddings-> objectives -loss-> training
        -Update-> [flare: executor -> filters => wall => aggregator -> controller] -State-> round

``errors, exchange, study, settings``  the nouns every layer shares: no torch, no FLARE
``evaluation, privacy``                NumPy only, independent of each other
``data, models, objectives, training`` what happens inside one hospital
``algorithms``                         one file per paper: pure functions, then Client and Server
``worker, comparison, jobs``           an algorithm in a child process, in one process, from a job
``flare``                              the only package that imports nvflare
``cli``                                the ``polyclinic`` command
"""

__version__ = "0.1.0"
