/**
 * What kube-proxy would decide, for TCP only: from Services and EndpointSlices, which addresses take connections, and
 * where each goes. Pure.
 */

export interface ServiceLike {
  readonly metadata?: { readonly namespace?: string; readonly name?: string };
  readonly spec?: {
    readonly clusterIP?: string;
    readonly ports?: readonly {
      readonly name?: string;
      readonly port: number;
      readonly protocol?: string;
    }[];
  };
}

export interface SliceLike {
  readonly metadata?: {
    readonly namespace?: string;
    readonly labels?: Readonly<Record<string, string>>;
  };
  readonly endpoints?: readonly {
    readonly addresses: readonly string[];
    readonly conditions?: { readonly ready?: boolean };
  }[];
  readonly ports?: readonly {
    readonly name?: string;
    readonly port?: number;
    readonly protocol?: string;
  }[];
}

export interface Target {
  readonly host: string;
  readonly port: number;
}

/** One address that takes connections; without targets it refuses them. */
export interface Forwarding {
  readonly address: string;
  readonly port: number;
  readonly targets: readonly Target[];
}

const sliceOf = 'kubernetes.io/service-name';

/** By `ADDRESS:PORT`. `except`: addresses that others listen on. */
export function planForwarding(
  services: readonly ServiceLike[],
  slices: readonly SliceLike[],
  except: ReadonlySet<string>,
): Map<string, Forwarding> {
  const plan = new Map<string, Forwarding>();
  for (const service of services) {
    const address = service.spec?.clusterIP ?? '';
    // No address, `None` (headless), or IPv6, which this cluster does not have.
    if (!/^\d+\.\d+\.\d+\.\d+$/.test(address) || except.has(address)) continue;
    const own = slices.filter(
      ({ metadata }) =>
        metadata?.namespace === service.metadata?.namespace &&
        metadata?.labels?.[sliceOf] === service.metadata?.name,
    );
    for (const { name = '', port, protocol = 'TCP' } of service.spec?.ports ?? []) {
      if (protocol !== 'TCP') continue;
      const targets = own.flatMap((slice) => targetsOf(slice, name));
      plan.set(`${address}:${port}`, { address, port, targets });
    }
  }
  return plan;
}

/** A slice's ports bear the names of the Service's ports; unnamed is the empty name. */
function targetsOf(slice: SliceLike, portName: string): Target[] {
  const ports = (slice.ports ?? []).filter(
    ({ name = '', protocol = 'TCP' }) => name === portName && protocol === 'TCP',
  );
  // An unknown readiness counts as ready (the API's own rule).
  const ready = (slice.endpoints ?? []).filter(({ conditions }) => conditions?.ready !== false);
  return ports.flatMap(({ port }) =>
    port === undefined
      ? []
      : ready.flatMap(({ addresses }) => addresses.slice(0, 1).map((host) => ({ host, port }))),
  );
}
