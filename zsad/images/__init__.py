"""Reading, cutting and preprocessing pictures, and drawing anomaly maps onto them."""
