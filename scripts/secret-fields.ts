/**
 * Prints src/api/generated/secret-fields.ts from buf's JSON descriptor set (its path is the one argument): the
 * request fields that carry option csi_secret, by method. Redaction looks at the top level of a request only, so
 * a secret anywhere else stops the generation here instead of reaching a log.
 */
import { readFileSync } from 'node:fs';

interface FieldNode {
  name: string;
  jsonName: string;
  typeName?: string;
  options?: Record<string, unknown>;
}
interface MessageNode {
  name: string;
  field?: FieldNode[];
  nestedType?: MessageNode[];
}
interface FileNode {
  package: string;
  messageType?: MessageNode[];
  service?: { name: string; method: { name: string; inputType: string }[] }[];
}

function collectMessages(
  prefix: string,
  messages: MessageNode[],
  into: Map<string, MessageNode>,
): void {
  for (const message of messages) {
    const name = `${prefix}.${message.name}`;
    into.set(name, message);
    collectMessages(name, message.nestedType ?? [], into);
  }
}

function isSecret(field: FieldNode): boolean {
  return field.options?.['[csi.v1.csi_secret]'] === true;
}

function main(path: string): string {
  const set = JSON.parse(readFileSync(path, 'utf8')) as { file: FileNode[] };
  const messages = new Map<string, MessageNode>();
  const methods: { path: string; request: string }[] = [];
  for (const file of set.file) {
    if (file.package === 'google.protobuf') continue;
    collectMessages(file.package, file.messageType ?? [], messages);
    for (const service of file.service ?? []) {
      for (const method of service.method) {
        const methodPath = `/${file.package}.${service.name}/${method.name}`;
        methods.push({ path: methodPath, request: method.inputType.slice(1) });
      }
    }
  }
  const secrets = new Map<string, string[]>();
  for (const [name, message] of messages) {
    const fields = (message.field ?? []).filter(isSecret).map((field) => field.jsonName);
    if (fields.length > 0) secrets.set(name, fields);
  }
  if (secrets.size === 0)
    throw new Error('no field carries option csi_secret: the descriptor set is incomplete');
  const requests = new Set(methods.map((method) => method.request));
  for (const name of secrets.keys()) {
    if (!requests.has(name))
      throw new Error(`${name} has secrets but is no request: teach redaction about it`);
  }
  for (const [name, message] of messages) {
    for (const field of message.field ?? []) {
      if (field.typeName !== undefined && secrets.has(field.typeName.slice(1))) {
        throw new Error(
          `${name}.${field.name} embeds a message with secrets: teach redaction to look inside`,
        );
      }
    }
  }
  const lines = methods.flatMap(({ path: methodPath, request }) => {
    const fields = secrets.get(request);
    return fields === undefined
      ? []
      : [`  '${methodPath}': [${fields.map((name) => `'${name}'`).join(', ')}],`];
  });
  return `// Made by scripts/generate-proto from proto/. DO NOT EDIT.

/** The fields of a method's request that carry option csi_secret: their values never reach a log. */
export const secretFields: Readonly<Record<string, readonly string[]>> = {
${lines.join('\n')}
};
`;
}

const [descriptorPath] = process.argv.slice(2);
if (descriptorPath === undefined) throw new Error('usage: secret-fields.ts DESCRIPTORS.json');
process.stdout.write(main(descriptorPath));
