/** The addresses of the bare cluster. All are in the sandbox's network, but for the one that says otherwise. */

/** Also the first of the services' addresses: what pods find as the Service `kubernetes`. */
export const apiServerAddress = '10.96.0.1';
export const apiServer = `https://${apiServerAddress}:443`;
export const serviceCidr = '10.96.0.0/16';
/** A bridge without ports: it bears the host node's address and those of services. */
export const nodeBridge = 'vdnode0';
export const hostNodeAddress = '10.77.1.1';
export const hostPodCidr = '10.77.2.0/24';
/** What images of pods' sandboxes are called; kubelets and containerd take it as it is in the node's store. */
export const pauseImage = 'registry.k8s.io/pause:3.10.1';
