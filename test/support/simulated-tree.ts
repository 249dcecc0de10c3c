/**
 * The directory tree of a simulated disk, twice: as programs see it, and as it would be found after a power cut.
 * Between the two lie the changes of names that were not synced, in order. A change is atomic, also one that
 * touches two directories (rename).
 */
import { SimulatedContent } from './simulated-content.ts';
import type { SeededRandom } from './seeded-random.ts';

export interface FileNode {
  readonly kind: 'file';
  readonly content: SimulatedContent;
  linkCount: number;
  openCount: number;
}

export interface DirectoryNode {
  readonly kind: 'directory';
  visible: Map<string, Node>;
  readonly durable: Map<string, Node>;
}

export type Node = FileNode | DirectoryNode;

/** One name of a directory set to a node, or removed. */
export interface Edit {
  readonly directory: DirectoryNode;
  readonly name: string;
  readonly node: Node | undefined;
}

interface Change {
  readonly sequence: number;
  readonly edits: readonly Edit[];
}

export function makeFile(): FileNode {
  return { kind: 'file', content: new SimulatedContent(), linkCount: 0, openCount: 0 };
}

export function makeDirectory(): DirectoryNode {
  return { kind: 'directory', visible: new Map(), durable: new Map() };
}

export class SimulatedTree {
  readonly root = makeDirectory();
  #pending: Change[] = [];
  #sequence = 0;

  /** The node that a path names; undefined when there is none. Empty segments don't count. */
  find(path: string): Node | undefined {
    let node: Node | undefined = this.root;
    for (const segment of segmentsOf(path)) {
      if (node?.kind !== 'directory') return undefined;
      node = node.visible.get(segment);
    }
    return node;
  }

  /** The directory that holds a path's last name, and that name; undefined when the directory doesn't exist. */
  locate(path: string): { directory: DirectoryNode; name: string } | undefined {
    const segments = segmentsOf(path);
    const name = segments.pop();
    const directory = this.find(segments.join('/'));
    return directory?.kind === 'directory' && name !== undefined ? { directory, name } : undefined;
  }

  change(...edits: Edit[]): void {
    for (const edit of edits) apply(edit, edit.directory.visible, true);
    this.#pending.push({ sequence: ++this.#sequence, edits });
  }

  /** What a sync that starts now will cover. */
  mark(): number {
    return this.#sequence;
  }

  /** A sync of the directory up to `mark` has succeeded. */
  commit(directory: DirectoryNode, mark: number): void {
    for (const { edits } of this.#take(directory, mark)) applyDurably(edits);
  }

  /** A sync of the directory up to `mark` has failed: a first part is durable, the rest never will be. */
  lose(directory: DirectoryNode, mark: number, random: SeededRandom): void {
    const changes = this.#take(directory, mark);
    const kept = random.integer(changes.length + 1);
    for (const { edits } of changes.slice(0, kept)) applyDurably(edits);
  }

  /** The power is gone. Of the changes in a directory a first part survives; a rename in both or in neither. */
  cut(random: SeededRandom): void {
    const stopProbability = [0, 1, 0.2, 0.5][random.integer(4)] ?? 0;
    const stopped = new Set<DirectoryNode>();
    for (const { edits } of this.#pending) {
      const stop =
        edits.some(({ directory }) => stopped.has(directory)) || random.chance(stopProbability);
      if (stop) for (const { directory } of edits) stopped.add(directory);
      else applyDurably(edits);
    }
    this.#pending = [];
    const seen = new Set<Node>();
    resurrect(this.root, random, seen);
  }

  /** Every file that a name leads to, once. */
  files(): Set<FileNode> {
    const files = new Set<FileNode>();
    const visit = (node: Node): void => {
      if (node.kind === 'file') files.add(node);
      else node.visible.forEach(visit);
    };
    visit(this.root);
    return files;
  }

  /** The pending changes of a directory and those that they depend on, taken out, in order. */
  #take(directory: DirectoryNode, mark: number): Change[] {
    const directories = new Set([directory]);
    const taken = new Set<Change>();
    for (const change of this.#pending.toReversed()) {
      if (change.sequence > mark) continue;
      if (!change.edits.some((edit) => directories.has(edit.directory))) continue;
      taken.add(change);
      for (const edit of change.edits) directories.add(edit.directory);
    }
    this.#pending = this.#pending.filter((change) => !taken.has(change));
    return [...taken].reverse();
  }
}

function segmentsOf(path: string): string[] {
  return path.split('/').filter((segment) => segment !== '' && segment !== '.');
}

function applyDurably(edits: readonly Edit[]): void {
  for (const edit of edits) apply(edit, edit.directory.durable, false);
}

function apply({ name, node }: Edit, names: Map<string, Node>, countLinks: boolean): void {
  const before = names.get(name);
  if (countLinks && before?.kind === 'file') before.linkCount--;
  if (countLinks && node?.kind === 'file') node.linkCount++;
  if (node === undefined) names.delete(name);
  else names.set(name, node);
}

/** Makes what is durable visible, down the tree, and counts links anew. */
function resurrect(directory: DirectoryNode, random: SeededRandom, seen: Set<Node>): void {
  directory.visible = new Map(directory.durable);
  for (const node of directory.visible.values()) {
    if (node.kind === 'directory') {
      // A directory that moved while only one of its names became durable would be seen twice; keep the first.
      if (!seen.has(node)) resurrect(node, random, seen.add(node));
      continue;
    }
    if (!seen.has(node)) {
      seen.add(node);
      node.linkCount = 0;
      node.openCount = 0;
      node.content.cut(random);
    }
    node.linkCount++;
  }
}
