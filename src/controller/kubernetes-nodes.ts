/** The nodes that Kubernetes knows. What only names a node may be remembered; what decides about data never is. */
import type { Nodes } from '../kubernetes/nodes.ts';
import { hasCode } from '../volumes/errors.ts';
import { fromKubernetes } from './kubernetes-errors.ts';
import type { NodeRegistry } from './node-registry.ts';

export function kubernetesNodes(nodes: Pick<Nodes, 'isGone' | 'isKnownNode'>): NodeRegistry {
  const seen = new Set<string>();
  return {
    isKnownNode: async (nodeId) => {
      try {
        const known = await fromKubernetes('find a node', () => nodes.isKnownNode(nodeId));
        if (known) seen.add(nodeId);
        else seen.delete(nodeId);
        return known;
      } catch (error) {
        if (hasCode(error, 'UNAVAILABLE') && seen.has(nodeId)) return true;
        throw error;
      }
    },
    isGone: async (nodeId) =>
      await fromKubernetes('ask whether a node is gone', () => nodes.isGone(nodeId)),
  };
}
