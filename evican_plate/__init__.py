"""Plates: file names to wells, CellProfiler in shards, one set of tables, one report.

``python -m evican_plate run PLATE_FOLDER --output RESULTS``. Data flow one way:

- `naming`, `plates`, `platemap`: files to image sets with plate, well, site and time
- `pipeline`, `cellprofiler`: the pipeline as a plate run needs it, and the CellProfiler that runs it
- `plan`: what has to be run, by content hashes, in shards
- `worker`, `checks`: one shard, and whether it is really done
- `run`, `progress`, `locking`, ``workflow/``: Snakemake over all shards
- `merge`, `database`, `summary`, `quality`: the tables
- `report`, `thumbnails`: the page to look at

Neither CellProfiler nor TensorFlow is imported here: CellProfiler is a command, started by its path.
"""
