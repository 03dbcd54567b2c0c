"""The atlas: all clusters of a set of images on one HTML page, which works offline.

    write_atlas("runs/mine/clusters", "atlas")  ->  atlas/atlas.html, atlas/atlas.parquet

`members` finds the cluster of each image. `pictures` opens the images without writing into the run.
`places` makes the map. `sheets` packs thumbnails into the allowed number of bytes. `summary`
describes each cluster in numbers. `page` writes the HTML, and `table` the Parquet file.
"""

from kt_jax.results.atlas.writing import Written, write_atlas

__all__ = ["Written", "write_atlas"]
