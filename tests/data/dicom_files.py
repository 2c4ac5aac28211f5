"""DICOM files that tests write."""

import io

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

PATIENT = "Zephyrine^Quux"
"""A name that nothing else would hold."""


def radiograph(pixels, **attributes):
    """Make a CR object of `pixels`, unsigned or signed 8 or 16 bits `[H, W]`.

    Attributes are DICOM keywords; None removes one.
    """
    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
    dataset.PatientName, dataset.PatientID = PATIENT, "QX-4711"
    dataset.Modality = "CR"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    bits = 8 * pixels.itemsize
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(np.issubdtype(pixels.dtype, np.signedinteger))
    dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    for keyword, value in attributes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    return dataset


def lookup(entries, first=0, bits=8, packed=False, **attributes):
    """Make the item of a LUT sequence; its entries have 16 bits or, `packed`, 8."""
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries), first, bits])
    data = np.asarray(entries, np.uint8 if packed else "<u2").tobytes()
    item.add_new("LUTData", "OW", data + b"\0" * (len(data) % 2))
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


def compressed(pixels, syntax, codestream, **attributes):
    """Make a CR object whose pixels are `codestream`, in one fragment."""
    dataset = radiograph(pixels, **attributes)
    dataset.PixelData = encapsulate([codestream])
    dataset["PixelData"].is_undefined_length = True
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


def jpeg(pixels, kind="JPEG", **options):
    """Return pixels uint8 `[H, W]` as JPEG; or, with `kind` "JPEG2000", up to 16 bits as that."""
    stream = io.BytesIO()
    defaults = {"quality": 95} if kind == "JPEG" else {"no_jp2": True}
    image = Image.fromarray(pixels.astype(np.uint8) if kind == "JPEG" else pixels)
    image.save(stream, kind, **{**defaults, **options})
    return stream.getvalue()


def encoded(dataset):
    """Return the bytes of a DICOM file."""
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()
