/**
 * Finds fields that Kubernetes does not know: the API server drops them with a warning at best, so that a misspelt one
 * is noticed late. The types are those of the client library for Kubernetes.
 */
import * as library from '@kubernetes/client-node';
import type { KubernetesObject } from './render.ts';

interface Attribute {
  readonly baseName: string;
  readonly type: string;
}
type Attributes = readonly Attribute[];

/** Versions whose types carry no version in their names. */
const models = library as unknown as Record<
  string,
  { getAttributeTypeMap?: () => Attributes } | undefined
>;

/** Paths of unknown fields, such as spec.template.spec.hostNetwrok; null when the library has no such kind. */
export function unknownFields(object: KubernetesObject): string[] | null {
  const version = object.apiVersion.split('/').at(-1) ?? '';
  const type = `${version.charAt(0).toUpperCase()}${version.slice(1)}${object.kind}`;
  return attributesOf(type) === null ? null : unknownIn(object, type, '');
}

function unknownIn(value: unknown, type: string, path: string): string[] {
  const element = /^Array<(.*)>$/.exec(type)?.[1];
  if (element !== undefined) {
    if (!Array.isArray(value)) return [`${path}: no list`];
    return value.flatMap((item, index) => unknownIn(item, element, `${path}[${index}]`));
  }
  const attributes = attributesOf(type);
  // A string, a map of strings and the like: nothing has a name there that could be wrong.
  if (attributes === null || typeof value !== 'object' || value === null) return [];
  return Object.entries(value).flatMap(([name, field]) => {
    const attribute = attributes.find(({ baseName }) => baseName === name);
    const where = path === '' ? name : `${path}.${name}`;
    return attribute === undefined ? [where] : unknownIn(field, attribute.type, where);
  });
}

function attributesOf(type: string): Attributes | null {
  return models[type]?.getAttributeTypeMap?.() ?? null;
}
