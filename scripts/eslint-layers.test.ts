import { describe, expect, test } from '@jest/globals';
import { importProblem } from './eslint-layers.ts';

const tables = {
  layers: { base: [], nbd: ['base'], engine: ['base', 'api/generated', 'api/file'], api: ['base'] },
  owners: { '@grpc/': ['src/api/'], winston: ['src/base/logger'] },
};

describe('importProblem', () => {
  test.each([
    ['src/nbd/server.ts', '../base/assert.ts', undefined],
    ['src/nbd/deep/er/server.ts', '../../../base/assert.ts', undefined],
    ['src/nbd/server.ts', './protocol.ts', undefined],
    ['src/base/clock.ts', '../nbd/server.ts', 'src/base may not import src/nbd'],
    ['src/engine/log/x.ts', '../../nbd/server.ts', 'src/engine may not import src/nbd'],
    ['src/engine/log/x.ts', '../nbd/own-folder-of-this-name.ts', undefined],
    ['src/engine/x.ts', '../api/generated/x.ts', undefined],
    ['src/engine/x.ts', '../api/file.ts', undefined],
    ['src/engine/x.ts', '../api/client.ts', 'src/engine may not import src/api'],
    ['src/main.ts', './nbd/server.ts', undefined],
    ['src/roles/all.ts', '../nbd/server.ts', undefined],
    ['test/property/x.test.ts', '../../src/nbd/server.ts', undefined],
    ['src/nbd/x.test.ts', '../../test/support/requires.ts', undefined],
    ['src/api/server.ts', '@grpc/grpc-js', undefined],
    ['src/nbd/server.ts', '@grpc/grpc-js', 'only src/api/ may import @grpc/'],
    ['src/base/logger.ts', 'winston', undefined],
    ['src/nbd/server.ts', 'winston/lib/x.js', 'only src/base/logger may import winston'],
    ['src/nbd/server.ts', 'winston-like', undefined],
    ['test/x.test.ts', '@grpc/grpc-js', undefined],
  ])('%s importing %s: %s', (file, source, problem) => {
    expect(importProblem(file, source, tables)).toBe(problem);
  });
});
