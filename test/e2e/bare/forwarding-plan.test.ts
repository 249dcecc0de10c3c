import { describe, expect, test } from '@jest/globals';
import { planForwarding, type ServiceLike, type SliceLike } from './forwarding-plan.ts';

const service = (spec: ServiceLike['spec'], name = 'web'): ServiceLike => ({
  metadata: { namespace: 'default', name },
  ...(spec === undefined ? {} : { spec }),
});

const slice = (
  endpoints: NonNullable<SliceLike['endpoints']>,
  ports: NonNullable<SliceLike['ports']> = [{ name: '', port: 8080, protocol: 'TCP' }],
): SliceLike => ({
  metadata: { namespace: 'default', labels: { 'kubernetes.io/service-name': 'web' } },
  endpoints,
  ports,
});

const web = service({ clusterIP: '10.96.3.4', ports: [{ port: 80 }] });

function plan(services: ServiceLike[], slices: SliceLike[]): unknown[] {
  return [...planForwarding(services, slices, new Set(['10.96.0.1'])).entries()];
}

describe('planForwarding', () => {
  test('sends a port to the ready endpoints of the service, over all of its slices', () => {
    const slices = [
      slice([
        { addresses: ['10.77.2.5'], conditions: { ready: true } },
        { addresses: ['10.77.2.6'], conditions: { ready: false } },
      ]),
      slice([{ addresses: ['10.77.4.7'] }]),
    ];
    expect(plan([web], slices)).toEqual([
      [
        '10.96.3.4:80',
        {
          address: '10.96.3.4',
          port: 80,
          targets: [
            { host: '10.77.2.5', port: 8080 },
            { host: '10.77.4.7', port: 8080 },
          ],
        },
      ],
    ]);
  });

  test('tells ports of one service apart by their names', () => {
    const ports = [
      { name: 'http', port: 80 },
      { name: 'issuer', port: 9000 },
    ];
    const slices = [
      slice(
        [{ addresses: ['10.77.2.5'] }],
        [
          { name: 'issuer', port: 9001 },
          { name: 'http', port: 8080 },
        ],
      ),
    ];
    expect(plan([service({ clusterIP: '10.96.3.4', ports })], slices)).toMatchObject([
      ['10.96.3.4:80', { targets: [{ port: 8080 }] }],
      ['10.96.3.4:9000', { targets: [{ port: 9001 }] }],
    ]);
  });

  test('refuses connections, by an address without targets, while nothing is ready', () => {
    expect(plan([web], [])).toMatchObject([['10.96.3.4:80', { targets: [] }]]);
  });

  test.each<[string, ServiceLike]>([
    ['headless', service({ clusterIP: 'None', ports: [{ port: 80 }] })],
    ['without an address', service({ ports: [{ port: 80 }] })],
    ['of IPv6', service({ clusterIP: 'fd00::1', ports: [{ port: 80 }] })],
    ['of UDP', service({ clusterIP: '10.96.0.10', ports: [{ port: 53, protocol: 'UDP' }] })],
    ['that others serve', service({ clusterIP: '10.96.0.1', ports: [{ port: 443 }] })],
  ])('leaves out services %s', (_, one) => {
    expect(plan([one], [slice([{ addresses: ['10.77.2.5'] }])])).toEqual([]);
  });

  test('takes no slice of a service with the same name elsewhere', () => {
    const other = { ...slice([{ addresses: ['10.77.2.5'] }]) };
    const elsewhere: SliceLike = {
      ...other,
      metadata: { ...other.metadata, namespace: 'elsewhere' },
    };
    expect(plan([web], [elsewhere])).toMatchObject([['10.96.3.4:80', { targets: [] }]]);
  });
});
