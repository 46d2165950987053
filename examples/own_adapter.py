"""An adapter of one's own: pictures that lean towards mirror symmetry."""

import laur
from laur.optimize import BaseAdapter, register


@register("mirror")
class Mirror(BaseAdapter):
    """Adds the mirror image to what the model foresees, in the first half of the steps."""

    def on_x0(self, step, total, x0):
        """x0 is the finished picture's latent as foreseen at this step, (4, height / 8, width / 8)."""
        return (x0 + x0.flip(-1)) / 2 if 2 * step <= total else x0


adapters = (laur.AdapterRef(name="lcm-lora-mini"), laur.AdapterRef(name="mirror", weight=0.8))
recipe = laur.Recipe(prompt="a castle, fluent 3d", seed=7, steps=4, adapters=adapters)
laur.Engine("mini").run([recipe])[0].save("own_adapter.png")
