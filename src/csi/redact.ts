/**
 * Makes a request printable: fields marked csi_secret in the proto show only their keys. Mount flags and the
 * tokens that Kubernetes puts into volume_context may be sensitive too, and the proto does not mark them.
 */
import { secretFields } from '../api/generated/secret-fields.ts';

const hidden = '***';
const sensitiveContextKeys = new Set(['csi.storage.k8s.io/serviceAccount.tokens']);

/** A copy of `request` for logs. */
export function redact(path: string, request: unknown): unknown {
  if (!isRecord(request)) return request;
  const secrets = secretFields[path] ?? [];
  return Object.fromEntries(
    Object.entries(request).map(([name, value]) => [
      name,
      secrets.includes(name) ? hide(value) : redactValue(name, value),
    ]),
  );
}

function redactValue(name: string, value: unknown): unknown {
  if (name === 'mountFlags') return hide(value);
  if (Array.isArray(value)) return value.map((item: unknown) => redactValue('', item));
  if (!isRecord(value)) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, inner]) => [
      key,
      sensitiveContextKeys.has(key) ? hidden : redactValue(key, inner),
    ]),
  );
}

/** Keeps the shape, which helps to see what is missing, and none of the values. */
function hide(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(() => hidden);
  if (isRecord(value)) return Object.fromEntries(Object.keys(value).map((key) => [key, hidden]));
  return value === undefined || value === '' ? value : hidden;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return (
    typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof Date)
  );
}
