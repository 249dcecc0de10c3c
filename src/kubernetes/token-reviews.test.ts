import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { TokenOwner } from '../../test/support/kube-api-server.ts';
import {
  driverName,
  namespace,
  putPod,
  selector,
  startKubeFixture,
  type KubeFixture,
  type PodFacts,
} from '../../test/support/kube-fixture.ts';
import { TokenReviews } from './token-reviews.ts';

let kube: KubeFixture;
let reviews: TokenReviews;
const token = 'eyJ.aaa.bbb';
const right: TokenOwner = {
  username: 'system:serviceaccount:storage:data-plane',
  audiences: [driverName],
  extra: {
    'authentication.kubernetes.io/pod-name': ['p1'],
    'authentication.kubernetes.io/pod-uid': ['uid-1'],
    'authentication.kubernetes.io/node-name': ['n1'],
  },
};

beforeEach(async () => {
  kube = await startKubeFixture({ callTimeoutMs: 500 });
  reviews = new TokenReviews({
    cluster: kube.cluster,
    namespace,
    serviceAccount: 'data-plane',
    audience: driverName,
    selector,
  });
});

afterEach(async () => {
  await kube.close();
});

function extra(changes: Readonly<Record<string, readonly string[] | undefined>>): TokenOwner {
  const all = { ...right.extra, ...changes };
  const left = Object.entries(all).filter(([, value]) => value !== undefined);
  return { ...right, extra: Object.fromEntries(left) as Record<string, string[]> };
}

interface Case {
  readonly name: string;
  readonly owner?: TokenOwner | null;
  readonly pod?: Partial<PodFacts> | null;
  readonly given?: string;
  /** Undefined: accepted. */
  readonly reason?: string;
}

const cases: Case[] = [
  { name: 'the right pod' },
  {
    name: 'an older API server',
    owner: extra({ 'authentication.kubernetes.io/node-name': undefined }),
  },
  { name: 'a pod that is not ready yet', pod: { ready: false, phase: 'Pending' } },
  { name: 'no token', given: '', reason: 'no service account token' },
  { name: 'a token with a line end', given: 'a\nb', reason: 'no service account token' },
  { name: 'a huge token', given: 'a'.repeat(20_000), reason: 'no service account token' },
  { name: 'an unknown token', owner: null, reason: 'invalid bearer token' },
  {
    name: 'another audience',
    owner: { ...right, audiences: ['https://kubernetes.default.svc'] },
    reason: 'audiences',
  },
  {
    name: 'another service account',
    owner: { ...right, username: 'system:serviceaccount:storage:default' },
    reason: 'is that of system:serviceaccount:storage:default',
  },
  {
    name: 'the same service account elsewhere',
    owner: { ...right, username: 'system:serviceaccount:other:data-plane' },
    reason: 'is that of system:serviceaccount:other:data-plane',
  },
  {
    name: 'a token of no pod',
    owner: { username: right.username, audiences: right.audiences },
    reason: 'not bound to a pod',
  },
  {
    name: 'a token without the uid',
    owner: extra({ 'authentication.kubernetes.io/pod-uid': undefined }),
    reason: 'not bound to a pod',
  },
  { name: 'a pod that is gone', pod: null, reason: 'there is no pod p1' },
  { name: 'a pod of other labels', pod: { labels: { app: 'x' } }, reason: 'there is no pod p1' },
  { name: 'a pod of the same name', pod: { uid: 'uid-2' }, reason: 'an earlier pod p1' },
  {
    name: 'a pod of another service account',
    pod: { serviceAccount: 'default' },
    reason: 'does not run as data-plane',
  },
  { name: 'a pod that ended', pod: { phase: 'Failed' }, reason: 'has ended' },
  { name: 'a pod elsewhere', pod: { node: 'n2' }, reason: 'is for node n1, but pod p1 is on n2' },
];

describe('a token', () => {
  test.each(cases)('of $name', async ({ owner = right, pod = {}, given = token, reason }) => {
    if (owner !== null) kube.server.tokens.set(token, owner);
    if (pod !== null) putPod(kube.server, { name: 'p1', uid: 'uid-1', node: 'n1', ...pod });
    putPod(kube.server, { name: 'p2', uid: 'uid-1', node: 'n3' });
    const verdict = await reviews.review(given);
    if (reason === undefined) {
      expect(verdict).toEqual({ accepted: true, nodeId: 'n1', podName: 'p1', podUid: 'uid-1' });
      return;
    }
    expect(verdict).toEqual({
      accepted: false,
      reason: expect.stringContaining(reason) as unknown,
    });
    expect(JSON.stringify(verdict)).not.toContain(token);
  });

  test('of a pod without a node', async () => {
    kube.server.tokens.set(token, right);
    putPod(kube.server, { name: 'p1', uid: 'uid-1' });
    expect(await reviews.review(token)).toMatchObject({
      accepted: false,
      reason: 'pod p1 is on no node',
    });
  });

  test('is not judged when the API server does not name the audience', async () => {
    const status = { authenticated: true, user: { username: right.username, extra: right.extra } };
    const body = JSON.stringify({ kind: 'TokenReview', status });
    kube.server.inject({ plural: 'tokenreviews', answer: { kind: 'raw', code: 201, body } });
    expect(await reviews.review(token)).toMatchObject({
      accepted: false,
      reason: `the token is not meant for ${driverName}`,
    });
  });

  const failing = [
    { plural: 'tokenreviews', answer: { kind: 'hang' }, kind: 'unavailable' },
    {
      plural: 'tokenreviews',
      answer: { kind: 'status', code: 403, reason: 'Forbidden' },
      kind: 'forbidden',
    },
    { plural: 'tokenreviews', answer: { kind: 'raw', code: 201, body: '{}' }, kind: 'protocol' },
    { plural: 'pods', answer: { kind: 'cut' }, kind: 'unavailable' },
    {
      plural: 'pods',
      answer: { kind: 'status', code: 403, reason: 'Forbidden' },
      kind: 'forbidden',
    },
  ] as const;
  test.each(failing)(
    'is neither accepted nor refused when $plural answers $answer.kind',
    async ({ plural, answer, kind }) => {
      kube.server.tokens.set(token, right);
      putPod(kube.server, { name: 'p1', uid: 'uid-1', node: 'n1' });
      kube.server.inject({ plural, answer });
      const rejection = expect(reviews.review(token)).rejects;
      await rejection.toMatchObject({
        kind,
        message: expect.not.stringContaining(token) as unknown,
      });
    },
  );
});
