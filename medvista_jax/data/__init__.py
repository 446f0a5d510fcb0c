"""The packaged atlas: verifiable questions about real medical images, with nothing to download but pip
packages.

``sources`` finds the images inside installed packages, ``images`` turns them into labelled arrays, ``splits``
says who may see what, ``pool`` hands out bases (a slice or a region on a canvas), ``implants`` draws targets
that the thumbnail provably cannot tell apart, ``families`` asks the questions, and ``atlas`` is the door:
``Atlas(split).item(family, index)`` is a pure function of its arguments. Targets, lesions and marks are
*implanted* or *drawn* into real images, and every question, table and picture says so.
"""
