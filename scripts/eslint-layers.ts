/**
 * An ESLint rule of our own: who may import whom. It resolves each import to a folder of src/, which patterns on
 * import paths cannot do exactly. The tables are in eslint.config.js.
 */
import path from 'node:path';
import type { Rule } from 'eslint';

export interface ImportTables {
  /** For each folder of src/, what it may import: folders, whole or in part, and files without their .ts. */
  readonly layers: Readonly<Record<string, readonly string[]>>;
  /** For each package, by its name or by its scope with a slash, the starts of the paths that may import it. */
  readonly owners: Readonly<Record<string, readonly string[]>>;
}

const root = path.resolve(import.meta.dirname, '..');

/**
 * Says what is wrong with `file` importing `source`; undefined when nothing is. `file` is relative to the repository.
 * Files directly in src/, in folders that the table lacks, and outside of src/ may import everything.
 */
export function importProblem(
  file: string,
  source: string,
  tables: ImportTables,
): string | undefined {
  return source.startsWith('.')
    ? layerProblem(file, path.join(path.dirname(file), source), tables)
    : ownerProblem(file, source, tables);
}

function layerProblem(file: string, target: string, { layers }: ImportTables): string | undefined {
  const from = layerOf(file, layers);
  const to = layerOf(target, layers);
  if (from === undefined || to === undefined || from === to) return undefined;
  const allowed = layers[from]?.some(
    (entry) => target.startsWith(`src/${entry}/`) || target === `src/${entry}.ts`,
  );
  return allowed ? undefined : `src/${from} may not import src/${to}`;
}

function ownerProblem(file: string, source: string, { owners }: ImportTables): string | undefined {
  if (!file.startsWith('src/')) return undefined;
  for (const [name, allowed] of Object.entries(owners)) {
    const matches = name.endsWith('/')
      ? source.startsWith(name)
      : source === name || source.startsWith(`${name}/`);
    if (matches && !allowed.some((start) => file.startsWith(start)))
      return `only ${allowed.join(', ')} may import ${name}`;
  }
  return undefined;
}

function layerOf(file: string, layers: ImportTables['layers']): string | undefined {
  const [top, folder = ''] = file.split(path.sep);
  return top === 'src' && Object.hasOwn(layers, folder) ? folder : undefined;
}

/** Its one option is the ImportTables. */
export const layersRule: Rule.RuleModule = {
  meta: { type: 'problem', schema: [{ type: 'object' }] },
  create(context) {
    const file = path.relative(root, context.filename);
    const tables = context.options[0] as ImportTables;
    const check = (node: Rule.Node, source: unknown): void => {
      if (typeof source !== 'string') return;
      const message = importProblem(file, source, tables);
      if (message !== undefined) context.report({ node, message });
    };
    return {
      ImportDeclaration: (node) => check(node, node.source.value),
      ExportAllDeclaration: (node) => check(node, node.source.value),
      ExportNamedDeclaration: (node) => check(node, node.source?.value),
      ImportExpression: (node) =>
        check(node, node.source.type === 'Literal' ? node.source.value : undefined),
    };
  },
};
