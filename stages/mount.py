"""Where a stage's pod has the ConfigMap with the stages' code."""

MOUNT_PATH = "/opt/kfp-osft"
ARCHIVE = f"{MOUNT_PATH}/kfp_osft.json.bz2"
