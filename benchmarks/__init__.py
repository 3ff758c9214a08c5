"""Side-by-side measurements against what others do, in one run on one machine; ratios are what they are for."""
