/**
 * What one volume may hold, cluster by cluster, given the writes that it was sent. Writes come in batches: those of one
 * batch run together, in an order of their own, and a batch is over before the next begins. Once a batch is over its
 * order is settled: what overlapped is read, and must be read again ever after. After a process crash every acknowledged write must
 * be there; after a power cut the volume must hold some prefix of the batches that contains all that was flushed, and
 * of the batch behind that prefix any part, cluster by cluster.
 */
const clusterBytes = 4096;

/** Contents by cluster; absent ones are zeroes. */
export type Content = Map<number, Buffer>;

export const zeroCluster: Buffer = Buffer.alloc(clusterBytes);

export interface Edit {
  readonly offset: number;
  readonly length: number;
  /** null: the range becomes zeroes. */
  readonly data: Buffer | null;
  acknowledged: boolean;
}

function touches(edit: Edit, cluster: number): boolean {
  const start = cluster * clusterBytes;
  return edit.offset < start + clusterBytes && start < edit.offset + edit.length;
}

/** The cluster after the edit. */
function edited(before: Buffer, cluster: number, edit: Edit): Buffer {
  const start = cluster * clusterBytes;
  const from = Math.max(0, edit.offset - start);
  const to = Math.min(clusterBytes, edit.offset + edit.length - start);
  const after = Buffer.from(before);
  if (edit.data === null) after.fill(0, from, to);
  else edit.data.copy(after, from, start + from - edit.offset, start + to - edit.offset);
  return after;
}

function clusterOf(content: Content, cluster: number): Buffer {
  return content.get(cluster) ?? zeroCluster;
}

export function applyEdit(content: Content, edit: Edit): void {
  const first = Math.floor(edit.offset / clusterBytes);
  const end = Math.ceil((edit.offset + edit.length) / clusterBytes);
  const affected =
    edit.data === null
      ? [...content.keys()].filter((cluster) => cluster >= first && cluster < end)
      : Array.from({ length: end - first }, (_, i) => first + i);
  for (const cluster of affected) {
    content.set(cluster, edited(clusterOf(content, cluster), cluster, edit));
  }
}

/** The first cluster in which two contents differ. */
export function firstDifference(image: Content, expected: Content): number | undefined {
  for (const cluster of new Set([...image.keys(), ...expected.keys()])) {
    if (!clusterOf(image, cluster).equals(clusterOf(expected, cluster))) return cluster;
  }
  return undefined;
}

interface Batch {
  readonly edits: Edit[];
  /** What was read where edits of the batch overlapped. */
  observed: Content;
}

function applyBatch(content: Content, { edits, observed }: Batch): void {
  for (const edit of edits) applyEdit(content, edit);
  for (const [cluster, bytes] of observed) content.set(cluster, bytes);
}

export class ContentModel {
  #base: Content;
  #batches: Batch[] = [];
  /** So many batches must survive a power cut. */
  #durable = 0;
  #current: Content;
  /** The last batch is still running. */
  #running = false;

  constructor(base: Content) {
    this.#base = new Map(base);
    this.#current = new Map(base);
  }

  /** All batches so far, as acknowledged. */
  get current(): Content {
    return this.#current;
  }

  begin(edits: Edit[]): void {
    this.#batches.push({ edits, observed: new Map() });
    this.#running = true;
  }

  /** Clusters whose content depends on the order of the running batch: end() has to be told what they hold. */
  contested(): number[] {
    const edits = this.#batches.at(-1)?.edits ?? [];
    const clusters = new Set<number>();
    for (const edit of edits.filter(({ data }) => data !== null)) {
      for (const other of edits.filter((one) => one !== edit && overlap(one, edit))) {
        const from = Math.max(edit.offset, other.offset);
        const to = Math.min(edit.offset + edit.length, other.offset + other.length);
        const end = Math.ceil(to / clusterBytes);
        for (let at = Math.floor(from / clusterBytes); at < end; at++) clusters.add(at);
      }
    }
    return [...clusters];
  }

  /** The batch is over. Throws when a contested cluster holds what no order of its edits makes. */
  end(observed: Content): void {
    const batch = this.#batches.at(-1);
    if (batch === undefined) return;
    for (const [cluster, actual] of observed) {
      const edits = batch.edits.filter((edit) => touches(edit, cluster));
      if (
        !isReachable(actual, clusterOf(this.#current, cluster), { cluster, edits, certain: edits })
      )
        throw new Error(`cluster ${cluster} is not what any order of its writes makes`);
    }
    batch.observed = observed;
    this.#running = false;
    applyBatch(this.#current, batch);
  }

  /** To be given to markDurable when a flush that begins now has ended. */
  get position(): number {
    return this.#batches.length - (this.#running ? 1 : 0);
  }

  markDurable(position: number): void {
    this.#durable = Math.max(this.#durable, position);
    // What is durable and over needs no history.
    while (this.#durable > 0 && this.#batches.length > (this.#running ? 1 : 0)) {
      const batch = this.#batches.shift();
      if (batch !== undefined) applyBatch(this.#base, batch);
      this.#durable--;
    }
  }

  /** Why the image can't be what a crash leaves; undefined when it can. */
  problemAfter(kind: 'process' | 'power', image: Content): string | undefined {
    const complete = this.position;
    const least = kind === 'power' ? this.#durable : complete;
    const state = new Map(this.#base);
    let problem = '';
    for (let count = 0; count <= complete; count++) {
      const done = this.#batches[count - 1];
      if (done !== undefined) applyBatch(state, done);
      if (count < least) continue;
      const wrong = firstIllegal(image, state, this.#batches[count]?.edits ?? [], kind);
      if (wrong === undefined) return undefined;
      problem += ` ${count} batches: cluster ${wrong} is wrong;`;
    }
    return `no legal prefix of ${this.#batches.length} batches, ${least} of them certain:${problem}`;
  }

  /** The volume now holds exactly this, durably. */
  settle(image: Content): void {
    this.#base = new Map(image);
    this.#current = new Map(image);
    this.#batches = [];
    this.#durable = 0;
    this.#running = false;
  }
}

function overlap(one: Edit, other: Edit): boolean {
  return one.offset < other.offset + other.length && other.offset < one.offset + one.length;
}

/** The first cluster that is neither as in `state` nor as a part of the batch behind it makes it. */
function firstIllegal(
  image: Content,
  state: Content,
  batch: readonly Edit[],
  kind: 'process' | 'power',
): number | undefined {
  for (const cluster of new Set([...image.keys(), ...state.keys()])) {
    const edits = batch.filter((edit) => touches(edit, cluster));
    const certain = kind === 'power' ? [] : edits.filter(({ acknowledged }) => acknowledged);
    const actual = clusterOf(image, cluster);
    if (!isReachable(actual, clusterOf(state, cluster), { cluster, edits, certain }))
      return cluster;
  }
  return undefined;
}

/** Whether some of the edits, with all that are certain among them, make `actual` in some order. */
function isReachable(
  actual: Buffer,
  before: Buffer,
  {
    cluster,
    edits,
    certain,
  }: { cluster: number; edits: readonly Edit[]; certain: readonly Edit[] },
): boolean {
  if (certain.length === 0 && actual.equals(before)) return true;
  return edits.some((edit) =>
    isReachable(actual, edited(before, cluster, edit), {
      cluster,
      edits: edits.filter((other) => other !== edit),
      certain: certain.filter((other) => other !== edit),
    }),
  );
}
