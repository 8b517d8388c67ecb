// Compares the schema with that of the last release, docs/releases/schema.graphql. What was not deprecated there must
// not go away or change incompatibly.
//
//   node tools/schema-changes.ts           fails, and names them, when there are breaking changes
//   node tools/schema-changes.ts release   makes the schema of today that of the last release
import { copyFile, mkdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import {
  buildSchema,
  findBreakingChanges,
  isEnumType,
  isInputObjectType,
  isInterfaceType,
  isObjectType,
} from 'graphql';
import type { GraphQLSchema } from 'graphql';

const root = fileURLToPath(new URL('..', import.meta.url));
const current = path.join(root, 'schema.graphql');
const released = path.join(root, 'docs/releases/schema.graphql');

/** `Type.member was removed`, `VALUE was removed from enum type E`, `arg on Type.field was removed`. */
const removals = [
  /^(?:Field )?(?<type>\w+)\.(?<member>\w+) was removed/,
  /^(?<member>\w+) was removed from enum type (?<type>\w+)/,
  /^(?<type>\w+)\.(?<member>\w+) arg (?<argument>\w+) was removed/,
];

/** Whether the description of a change names something that the release had marked as deprecated. */
export function wasDeprecated(before: GraphQLSchema, description: string): boolean {
  for (const pattern of removals) {
    const { type: typeName = '', member = '', argument } = pattern.exec(description)?.groups ?? {};
    const type = before.getType(typeName);
    if (isEnumType(type)) return type.getValue(member)?.deprecationReason != null;
    if (isInputObjectType(type)) return type.getFields()[member]?.deprecationReason != null;
    if (!isObjectType(type) && !isInterfaceType(type)) continue;
    const field = type.getFields()[member];
    if (field?.deprecationReason != null) return true;
    return argument !== undefined && field?.args.find(({ name }) => name === argument)?.deprecationReason != null;
  }
  return false;
}

/** A sentence for each change that breaks clients of the release without a warning. */
export function breakingChanges(before: string, now: string): string[] {
  const old = buildSchema(before);
  return findBreakingChanges(old, buildSchema(now))
    .map(({ description }) => description)
    .filter((description) => !wasDeprecated(old, description));
}

async function readIfThere(file: string): Promise<string | null> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return null;
    throw error;
  }
}

if (import.meta.main) {
  if (process.argv[2] === 'release') {
    await mkdir(path.dirname(released), { recursive: true });
    await copyFile(current, released);
  } else {
    const before = await readIfThere(released);
    if (before === null) console.log('nothing was released yet');
    else {
      const found = breakingChanges(before, await readFile(current, 'utf8'));
      for (const one of found) console.error(one);
      if (found.length > 0) process.exitCode = 1;
    }
  }
}
