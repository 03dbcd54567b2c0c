"""The atlas: every cluster of a set of images on one page that needs no server.

    write_atlas("runs/mine/clusters", "atlas")  ->  atlas/atlas.html, atlas/atlas.parquet

`members` finds out which image is in which cluster and how clearly; `pictures` opens the images
without a trace in the run that is read; `places` draws the map; `sheets` packs thumbnails into as
many bytes as are allowed; `summary` says what a cluster is; `page` writes the HTML and `table` the
Parquet file. It reads finished artifacts of any run and changes none.
"""

from kt_jax.results.atlas.writing import Written, write_atlas

__all__ = ["Written", "write_atlas"]
