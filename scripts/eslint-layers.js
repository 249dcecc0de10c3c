/**
 * An ESLint rule of our own: who may import whom. It resolves each import to a folder of src/, which patterns on
 * import paths cannot do exactly. The tables are in eslint.config.js.
 *
 * Options: { layers: { FOLDER: [folders that it may import] }, owners: { PACKAGE: [path prefixes that may import it] } }.
 * A folder may be named in part ('api/generated'). A package is matched by its name or, with a trailing slash, by
 * its scope. Files directly in src/ and the folders that the table lacks may import everything.
 */
import path from 'node:path';

const root = path.resolve(import.meta.dirname, '..');

/** Says what is wrong with `file` importing `source`, or undefined. Paths are relative to the repository. */
export function importProblem(file, source, { layers, owners }) {
  if (source.startsWith('.')) {
    const target = path.join(path.dirname(file), source);
    const from = layerOf(file, layers);
    const to = layerOf(target, layers);
    if (from === undefined || to === undefined || from === to) return undefined;
    const allowed = layers[from].some((folder) => target.startsWith(`src/${folder}/`));
    return allowed ? undefined : `src/${from} may not import src/${to}`;
  }
  for (const [name, allowed] of Object.entries(owners)) {
    const matches = name.endsWith('/')
      ? source.startsWith(name)
      : source === name || source.startsWith(`${name}/`);
    if (matches && file.startsWith('src/') && !allowed.some((prefix) => file.startsWith(prefix)))
      return `only ${allowed.join(', ')} may import ${name}`;
  }
  return undefined;
}

function layerOf(file, layers) {
  const [top, folder] = file.split(path.sep);
  return top === 'src' && Object.hasOwn(layers, folder) ? folder : undefined;
}

/** @type {import('eslint').Rule.RuleModule} */
export const layersRule = {
  meta: { type: 'problem', schema: [{ type: 'object' }] },
  create(context) {
    const file = path.relative(root, context.filename);
    const check = (node) => {
      const source = node.source?.value;
      if (typeof source !== 'string') return;
      const message = importProblem(file, source, context.options[0]);
      if (message !== undefined) context.report({ node, message });
    };
    return {
      ImportDeclaration: check,
      ExportNamedDeclaration: check,
      ExportAllDeclaration: check,
      ImportExpression: check,
    };
  },
};
