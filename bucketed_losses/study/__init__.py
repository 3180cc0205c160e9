"""Studies: one detector, or several, trained with one loss after another, and the results as tables and figures.

Each file uses only files below it in this list:

==========================  ============================================================================
``run``                     the steps of a study, from the configs to the report
``measurements``            the measurements among them
``executors``, ``slurm``    where its commands run: on this machine, or as Slurm jobs
``commands``                one command in a process of its own
``child``                   the entry point of those processes: ``python -m bucketed_losses.study.child``
``training``                trains one config
``times``                   measures seconds per iteration and in the losses
``gradient_shares``         measures how each loss shares its gradient between positives and negatives
``report``                  the page of a study and its CSV files
``figures``                 the figures of that page
``curves``, ``summary``     the figure and the table of any runs, with or without a study
``progress``                the time that is left
``tuning``                  learning rates: the choice from a grid, and its table
``differences``             paired differences of AP with their intervals
``detections``              the detections of a run, and its AP on resampled images
``outcomes``                whether a training finished, diverged or failed
``markdown``                tables in Markdown
``lock``                    one command at a time in a folder
``configs``                 the config of one run
``learning_rates``          the learning rate of a config
``store``                   the files of a study, and its results as a table
``names``                   names and hyper-parameters of losses, as the paper counts them
``logs``                    the logs of MMEngine
``plan``                    what a study runs
``loop_over_positives``     the published algorithm, for its time
==========================  ============================================================================
"""
