/** Which nodes exist: CSI wants ControllerPublishVolume to tell an unknown node from a known one. */
export interface NodeRegistry {
  isKnownNode(nodeId: string): Promise<boolean>;
  /**
   * Whether somebody who knows says that nothing runs on the node any more: it was deleted, or declared out of service.
   * Never from memory: UNAVAILABLE when nobody can be asked.
   */
  isGone(nodeId: string): Promise<boolean>;
}

/** For one machine, whose nodes are given at start. */
export function staticNodes(nodeIds: readonly string[]): NodeRegistry {
  const known = new Set(nodeIds);
  return {
    isKnownNode: (nodeId) => Promise.resolve(known.has(nodeId)),
    isGone: () => Promise.resolve(false),
  };
}
