"""Pictures of capsule networks: each function returns a Matplotlib figure, and shows nothing.

No function changes the state of pyplot: `figure.savefig("name.png")` writes a figure.
"""

from kcaps.visualization.capsules import capsules as capsules
from kcaps.visualization.confusion import confusion as confusion
from kcaps.visualization.confusion_matrix import confusion_matrix as confusion_matrix
from kcaps.visualization.couplings import couplings as couplings
from kcaps.visualization.dimensions import dimensions as dimensions
from kcaps.visualization.image_grid import image_grid as image_grid
from kcaps.visualization.reconstructions import reconstructions as reconstructions
