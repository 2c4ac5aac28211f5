"""The box of a mask's largest connected region, in operators of ONNX.

The same boxes as `agcnn_jax.attention.regions`. Only runs of set pixels are labelled, of which a
mask has hundreds where it has tens of thousands of pixels.
"""

from __future__ import annotations

from agcnn_jax.portable.graph import BOOL, INT32, INT64, Graph


def region_boxes(graph: Graph, values: str, threshold: str, height: int, width: int) -> str:
    """Add the search for every map's box.

    Args:
        graph: the graph to add to.
        values: float32 `[B, H, W]`, at least 0; what exceeds the threshold is set.
        threshold: float32 `[]`, at least 0.
        height: H.
        width: W.

    Returns:
        int32 `[B, 4]`, as `region_boxes_device` finds them.
    """
    g, one, zero = graph, graph.constant(1, "int64"), graph.constant(0, "int64")
    # Each pixel beside its right neighbour. A column of zeros on the left of the lines ends the
    # runs of the lines before, and a line of zeros separates the images.
    row = width + 1
    left_margin, right_margin = (0, 0, 1, 0, 1, 0), (0, 0, 0, 0, 1, 1)
    here, right = (
        g.add("Greater", g.add("Pad", values, g.integers(*margin)), threshold)
        for margin in (left_margin, right_margin)
    )

    # Runs, in raster order: where they begin and where they end take turns.
    places = g.add("NonZero", g.add("Xor", here, right))
    # One run without pixels in the first image keeps tensors from being empty.
    places = g.add("Concat", places, g.constant([[0, 0]] * 3, "int64"), axis=1)
    places = g.reshape(places, 3, -1, 2)
    begin, end = (g.add("Gather", places, g.constant(i, "int64"), axis=2) for i in (0, 1))
    image, y, left = (g.add("Gather", begin, g.constant(i, "int64"), axis=0) for i in range(3))
    right_edge = g.add("Gather", end, g.constant(2, "int64"), axis=0)
    numbers = g.add("Range", zero, g.add("Size", image), one)

    # Where a square of two by two pixels has some of a run in its upper line and some of another
    # in its lower one, these touch; its left pixels tell whether the square before said so.
    begins = g.add("And", right, g.add("Not", here))
    counted = g.add("CumSum", g.reshape(g.cast(begins, INT32), -1), zero)
    here, occupied = g.reshape(here, -1, row), g.reshape(g.add("Or", here, right), -1, row)
    touching, said = (
        g.add("And", g.part(lines, 0, 0, -1), g.part(lines, 0, 1)) for lines in (occupied, here)
    )
    fresh = g.add("And", touching, g.add("Not", said))
    squares = g.reshape(g.add("NonZero", g.reshape(fresh, -1)), -1)

    def run_at(squares: str) -> str:
        number = g.add("Sub", g.cast(g.add("Gather", counted, squares), INT64), one)
        return g.add("Concat", number, g.integers(0), axis=0)  # never empty either

    above = run_at(squares)
    below = run_at(g.add("Add", squares, g.constant(row, "int64")))
    labels = _label(g, numbers, above, below)

    # The area of a region is kept with its first run, whose number is its label.
    none = g.add("Sub", numbers, numbers)
    length = g.add("Sub", right_edge, left)
    areas = _scatter(g, none, labels, length, "add")
    batch = g.add("Shape", values, end=1)
    no_area = g.add("Expand", zero, batch)
    largest = _scatter(g, no_area, image, areas, "max")
    is_largest = g.add("Equal", areas, g.add("Gather", largest, image))
    count = g.add("Size", image)
    first = g.add("Where", is_largest, numbers, count)
    label = _scatter(g, g.add("Expand", count, batch), image, first, "min")
    chosen = g.add("Equal", labels, g.add("Gather", label, image))

    def edge(values: str, outside: int, reduction: str) -> str:
        outside_ = g.constant(outside, "int64")
        candidates = g.add("Where", chosen, values, outside_)
        return _scatter(g, g.add("Expand", outside_, batch), image, candidates, reduction)

    edges = (
        edge(left, width, "min"),
        edge(y, height, "min"),
        edge(right_edge, 0, "max"),
        edge(g.add("Add", y, one), 0, "max"),
    )
    box = g.add("Concat", *(g.reshape(one_edge, -1, 1) for one_edge in edges), axis=1)
    found = g.reshape(g.add("Greater", largest, zero), -1, 1)
    whole = g.constant([[0, 0, width, height]], "int64")
    return g.cast(g.add("Where", found, box, whole), INT32)


def _scatter(graph: Graph, start: str, indices: str, updates: str, reduction: str) -> str:
    return graph.add("ScatterElements", start, indices, updates, axis=0, reduction=reduction)


def _label(graph: Graph, numbers: str, above: str, below: str) -> str:
    """Label each run with the lowest number of its region's runs, int64 `[R]`.

    In each round, of two runs that touch, the runs that their labels name both get the lower of the
    two labels; then every label gives way to the label of the run that it names. So labels travel
    by leaps, and a region as long as a mask allows takes few rounds.
    """
    body = Graph(prefix="round_")
    first, second = (body.add("Gather", "state", pair) for pair in (above, below))
    lower = body.add("Min", first, second)
    labels = _scatter(body, "state", first, lower, "min")
    labels = _scatter(body, labels, second, lower, "min")
    body.rename(body.add("Gather", labels, labels), "next_state")
    differ = body.cast(body.add("Not", body.add("Equal", first, second)), INT32)
    body.rename(body.cast(body.reduce("ReduceMax", differ, 0), BOOL), "again")
    return graph.repeat(body, numbers, INT64)
