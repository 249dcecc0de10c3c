// Made by scripts/generate-proto from proto/. DO NOT EDIT.

/** The fields of a method's request that carry option csi_secret: their values never reach a log. */
export const secretFields: Readonly<Record<string, readonly string[]>> = {
  '/csi.v1.Controller/CreateVolume': ['secrets'],
  '/csi.v1.Controller/DeleteVolume': ['secrets'],
  '/csi.v1.Controller/ControllerPublishVolume': ['secrets'],
  '/csi.v1.Controller/ControllerUnpublishVolume': ['secrets'],
  '/csi.v1.Controller/ValidateVolumeCapabilities': ['secrets'],
  '/csi.v1.Controller/ControllerListVolumeHealth': ['secrets'],
  '/csi.v1.Controller/ControllerGetVolumeHealth': ['secrets'],
  '/csi.v1.Controller/CreateSnapshot': ['secrets'],
  '/csi.v1.Controller/DeleteSnapshot': ['secrets'],
  '/csi.v1.Controller/ListSnapshots': ['secrets'],
  '/csi.v1.Controller/GetSnapshot': ['secrets'],
  '/csi.v1.Controller/ControllerExpandVolume': ['secrets'],
  '/csi.v1.Controller/ControllerModifyVolume': ['secrets'],
  '/csi.v1.GroupController/CreateVolumeGroupSnapshot': ['secrets'],
  '/csi.v1.GroupController/DeleteVolumeGroupSnapshot': ['secrets'],
  '/csi.v1.GroupController/GetVolumeGroupSnapshot': ['secrets'],
  '/csi.v1.SnapshotMetadata/GetMetadataAllocated': ['secrets'],
  '/csi.v1.SnapshotMetadata/GetMetadataDelta': ['secrets'],
  '/csi.v1.Node/NodeStageVolume': ['secrets'],
  '/csi.v1.Node/NodePublishVolume': ['secrets'],
  '/csi.v1.Node/NodeGetStorageHealth': ['secrets'],
  '/csi.v1.Node/NodeExpandVolume': ['secrets'],
};
