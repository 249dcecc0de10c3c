/**
 * Who holds a service account token: only a pod of the volumedriver gets a node's name out of it. The token must be
 * bound to a pod that still exists, and the node is where the scheduler put that pod, not what anybody says.
 */
import { z } from 'zod';
import { resources } from './api-request.ts';
import type { Cluster } from './cluster.ts';
import { metadataSchema, readObject } from './objects.ts';

export type TokenVerdict =
  | {
      readonly accepted: true;
      readonly nodeId: string;
      readonly podName: string;
      readonly podUid: string;
    }
  /** The reason is for our log and for the caller: it holds nothing of the token. */
  | { readonly accepted: false; readonly reason: string };

export interface TokenReviewsOptions {
  readonly cluster: Cluster;
  /** Of the pods and of their service account. */
  readonly namespace: string;
  readonly serviceAccount: string;
  /** What the token must have been made for. */
  readonly audience: string;
  /** Label selector of the pods. */
  readonly selector: string;
}

const podNameKey = 'authentication.kubernetes.io/pod-name';
const podUidKey = 'authentication.kubernetes.io/pod-uid';
/** API servers older than 1.30 don't say it. */
const nodeNameKey = 'authentication.kubernetes.io/node-name';

/** They have about 1 KiB. */
const tokenLengthMax = 16 * 1024;

export class TokenReviews {
  readonly #options: TokenReviewsOptions;

  constructor(options: TokenReviewsOptions) {
    this.#options = options;
  }

  /** Rejects with a KubernetesError when it can't be found out. */
  async review(token: string, signal?: AbortSignal): Promise<TokenVerdict> {
    if (!/^[\w.~+/=-]+$/.test(token) || token.length > tokenLengthMax) {
      return refuse('this is no service account token');
    }
    const { cluster, audience } = this.#options;
    const body = {
      apiVersion: 'authentication.k8s.io/v1',
      kind: 'TokenReview',
      spec: { token, audiences: [audience] },
    };
    const resource = resources.tokenReviews;
    const answer = await cluster.request({ verb: 'create', resource, name: '', body }, signal);
    const { status } = readObject(reviewSchema, answer, 'create TokenReview');
    const refusal = this.#refusalOf(status);
    if (refusal !== undefined) return refuse(refusal);
    const claims = readClaims(status);
    if (claims === undefined) {
      return refuse('the token is not bound to a pod: it must be a projected one');
    }
    return await this.#reviewPod(claims, signal);
  }

  /** Whether it is a token of the service account for the audience; if not, why. */
  #refusalOf({ authenticated, error, audiences, user }: ReviewStatus): string | undefined {
    const { audience, namespace, serviceAccount } = this.#options;
    if (authenticated !== true) return error ?? 'the API server does not accept the token';
    if (!(audiences ?? []).includes(audience)) return `the token is not meant for ${audience}`;
    const wanted = `system:serviceaccount:${namespace}:${serviceAccount}`;
    const name = user?.username ?? 'nobody';
    return name === wanted ? undefined : `the token is that of ${name}, not of ${wanted}`;
  }

  /** The API server itself matches the labels, by a list that can find that one pod only. */
  async #reviewPod(claims: Claims, signal: AbortSignal | undefined): Promise<TokenVerdict> {
    const { podName, podUid, nodeId: nodeOfToken } = claims;
    const { cluster, namespace, selector, serviceAccount } = this.#options;
    const collection = {
      resource: resources.pods,
      namespace,
      labelSelector: selector,
      fieldSelector: `metadata.name=${podName}`,
    };
    const { items } = await cluster.list(collection, signal);
    const pods = items.map((item) => readObject(podSchema, item, `read Pod ${podName}`));
    const pod = pods.find(({ metadata }) => metadata.name === podName);
    if (pod === undefined) return refuse(`there is no pod ${podName} with the labels ${selector}`);
    if (pod.metadata.uid !== podUid) {
      return refuse(`the token is that of an earlier pod ${podName}, not of the one there is`);
    }
    if (pod.spec.serviceAccountName !== serviceAccount) {
      return refuse(`pod ${podName} does not run as ${serviceAccount}`);
    }
    if (pod.status.phase === 'Succeeded' || pod.status.phase === 'Failed') {
      return refuse(`pod ${podName} has ended`);
    }
    const nodeId = pod.spec.nodeName ?? '';
    if (nodeId === '') return refuse(`pod ${podName} is on no node`);
    if (nodeOfToken !== undefined && nodeOfToken !== nodeId) {
      return refuse(`the token is for node ${nodeOfToken}, but pod ${podName} is on ${nodeId}`);
    }
    return { accepted: true, nodeId, podName, podUid };
  }
}

const reviewSchema = z.object({
  status: z.object({
    authenticated: z.boolean().nullish(),
    audiences: z.array(z.string()).nullish(),
    error: z.string().optional(),
    user: z
      .object({
        username: z.string().nullish(),
        extra: z.record(z.string(), z.array(z.string())).nullish(),
      })
      .nullish(),
  }),
});

type ReviewStatus = z.infer<typeof reviewSchema>['status'];

/** What the API server read out of the token. */
interface Claims {
  readonly podName: string;
  readonly podUid: string;
  readonly nodeId: string | undefined;
}

function readClaims({ user }: ReviewStatus): Claims | undefined {
  const podName = user?.extra?.[podNameKey]?.[0];
  const podUid = user?.extra?.[podUidKey]?.[0];
  if (podName === undefined || podUid === undefined) return undefined;
  return { podName, podUid, nodeId: user?.extra?.[nodeNameKey]?.[0] };
}

const podSchema = z.object({
  metadata: metadataSchema,
  spec: z.object({ nodeName: z.string().optional(), serviceAccountName: z.string().optional() }),
  status: z.object({ phase: z.string().optional() }),
});

function refuse(reason: string): TokenVerdict {
  return { accepted: false, reason };
}
