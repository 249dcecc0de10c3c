/**
 * The map of one snapshot: frozen pages in memory until a checkpoint has stored them, then the stored root, whose map is
 * made when somebody first reads it. What is replaced or dropped is let go only after the look-ups on it have ended.
 */
import type { PersistedRoot } from './map/page.ts';
import type { FrozenMap, MappedRun, VolumeMap } from './map/volume-map.ts';

interface Readable {
  lookup(cluster: number, count: number): MappedRun[] | Promise<MappedRun[]>;
}

/** Counts the look-ups under way on a map that will be ended. */
class Counted implements Readable {
  readonly #map: Readable;
  readonly #end: () => void;
  #running = 0;
  #retired = false;

  constructor(map: Readable, end: () => void) {
    this.#map = map;
    this.#end = end;
  }

  lookup(cluster: number, count: number): MappedRun[] | Promise<MappedRun[]> {
    const found = this.#map.lookup(cluster, count);
    if (!(found instanceof Promise)) return found;
    this.#running++;
    return found.finally(() => {
      this.#running--;
      if (this.#retired && this.#running === 0) this.#end();
    });
  }

  retire(): void {
    if (this.#retired) return;
    this.#retired = true;
    if (this.#running === 0) this.#end();
  }
}

export class SnapshotMap implements Readable {
  readonly #openMap: (root: PersistedRoot | null) => VolumeMap;
  #frozen: FrozenMap | null;
  #root: PersistedRoot | null;
  #view: Counted | null = null;

  constructor(
    content: { frozen: FrozenMap } | { root: PersistedRoot | null },
    openMap: (root: PersistedRoot | null) => VolumeMap,
  ) {
    this.#openMap = openMap;
    this.#frozen = 'frozen' in content ? content.frozen : null;
    this.#root = 'frozen' in content ? null : content.root;
  }

  /** Not in the backend yet; null once a checkpoint has stored it. */
  get frozen(): FrozenMap | null {
    return this.#frozen;
  }

  /** Where it is stored; says nothing while it is frozen. */
  get root(): PersistedRoot | null {
    return this.#root;
  }

  lookup(cluster: number, count: number): MappedRun[] | Promise<MappedRun[]> {
    this.#view ??= this.#openView();
    return this.#view.lookup(cluster, count);
  }

  /** A checkpoint has stored the frozen pages. */
  stored(root: PersistedRoot | null): void {
    const frozen = this.#frozen;
    this.#frozen = null;
    this.#root = root;
    if (this.#view === null) frozen?.release();
    this.#view?.retire();
    this.#view = null;
  }

  drop(): void {
    if (this.#view === null) this.#frozen?.release();
    this.#view?.retire();
    this.#view = null;
  }

  #openView(): Counted {
    const frozen = this.#frozen;
    if (frozen !== null) {
      return new Counted(frozen, () => {
        frozen.release();
      });
    }
    const map = this.#openMap(this.#root);
    return new Counted(map, () => {
      map.close();
    });
  }
}
