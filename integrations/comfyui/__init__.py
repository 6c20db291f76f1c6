"""Nodes for ComfyUI that generate and edit images and speech with maskgen."""

from .any_to_any import MaskgenAnyToAny
from .images import MaskgenDecodeSteps, MaskgenEditImage, MaskgenOutpaintImage, MaskgenTextToImage
from .load_model import MaskgenLoadModel
from .sampling import MaskgenSampling
from .speech import MaskgenEditSpeech, MaskgenSpeech

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
NODE_CLASS_MAPPINGS = {
    "MaskgenLoadModel": MaskgenLoadModel,
    "MaskgenSampling": MaskgenSampling,
    "MaskgenTextToImage": MaskgenTextToImage,
    "MaskgenEditImage": MaskgenEditImage,
    "MaskgenOutpaintImage": MaskgenOutpaintImage,
    "MaskgenDecodeSteps": MaskgenDecodeSteps,
    "MaskgenSpeech": MaskgenSpeech,
    "MaskgenEditSpeech": MaskgenEditSpeech,
    "MaskgenAnyToAny": MaskgenAnyToAny,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "MaskgenLoadModel": "maskgen Load Model",
    "MaskgenSampling": "maskgen Sampling",
    "MaskgenTextToImage": "maskgen Text to Image",
    "MaskgenEditImage": "maskgen Edit Image",
    "MaskgenOutpaintImage": "maskgen Outpaint Image",
    "MaskgenDecodeSteps": "maskgen Decode Steps",
    "MaskgenSpeech": "maskgen Speech",
    "MaskgenEditSpeech": "maskgen Edit Speech",
    "MaskgenAnyToAny": "maskgen Any to Any",
}
