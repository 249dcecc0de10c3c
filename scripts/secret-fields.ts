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

interface Api {
  messages: Map<string, MessageNode>;
  methods: { path: string; request: string }[];
}

function readApi(files: FileNode[]): Api {
  const api: Api = { messages: new Map(), methods: [] };
  for (const file of files) {
    if (file.package === 'google.protobuf') continue;
    collectMessages(file.package, file.messageType ?? [], api.messages);
    for (const service of file.service ?? []) {
      for (const method of service.method) {
        const methodPath = `/${file.package}.${service.name}/${method.name}`;
        api.methods.push({ path: methodPath, request: method.inputType.slice(1) });
      }
    }
  }
  return api;
}

/** Refuses secrets where redaction would not find them. */
function checkReach({ messages, methods }: Api, secrets: Map<string, string[]>): void {
  if (secrets.size === 0) {
    throw new Error('no field carries option csi_secret: the descriptor set is incomplete');
  }
  const requests = new Set(methods.map((method) => method.request));
  for (const name of secrets.keys()) {
    if (!requests.has(name)) {
      throw new Error(`${name} has secrets but is no request: teach redaction about it`);
    }
  }
  for (const [name, message] of messages) {
    const embeds = (message.field ?? []).find((field) =>
      secrets.has((field.typeName ?? '').slice(1)),
    );
    if (embeds !== undefined) {
      throw new Error(
        `${name}.${embeds.name} embeds a message with secrets: teach redaction to look inside`,
      );
    }
  }
}

function main(path: string): string {
  const api = readApi((JSON.parse(readFileSync(path, 'utf8')) as { file: FileNode[] }).file);
  const secrets = new Map<string, string[]>();
  for (const [name, message] of api.messages) {
    const fields = (message.field ?? []).filter(isSecret).map((field) => field.jsonName);
    if (fields.length > 0) secrets.set(name, fields);
  }
  checkReach(api, secrets);
  const lines = api.methods.flatMap(({ path: methodPath, request }) => {
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
