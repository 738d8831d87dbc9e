"""Sample data: drawn shapes on photographs, in ADE20K's and COCO's layout."""
