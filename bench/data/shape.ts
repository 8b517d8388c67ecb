import { createHash } from 'node:crypto';

/** How many there are of what. Everything grows with the scale; what one list has stays. */
export interface Shape {
  readonly scale: number;
  readonly workspaces: number;
  readonly users: number;
  readonly applications: number;
  /** The first ones of the applications: half of all deployments are theirs. */
  readonly busy: number;
  readonly deployments: number;
  readonly eventsPerDeployment: number;
}

const parts = (count: number, scale: number) => Math.max(2, Math.round(count * scale));

/** @param scale 1: 200 workspaces, 2,000 users, 2,000 applications, 100,000 deployments, 1,000,000 events */
export function shapeOf(scale: number): Shape {
  const workspaces = parts(200, scale);
  const applications = workspaces * 10;
  return {
    scale,
    workspaces,
    users: workspaces * 10,
    applications,
    busy: Math.max(1, Math.round(applications / 100)),
    deployments: applications * 50,
    eventsPerDeployment: 10,
  };
}

/** Kinds of rows, for the ids: a digit of each tells what it is of. */
export const kinds = { workspace: 1, user: 2, membership: 3, key: 4, application: 5, deployment: 6, step: 7 } as const;

/** 2026-01-01, as milliseconds since 1970. */
export const epochMs = 1_767_225_600_000;
/** Time between two deployments, milliseconds. */
export const stepMs = 2000;

/**
 * The id of the i-th row of a kind, from 1: a UUIDv7 whose time rises with i.
 * @see https://www.rfc-editor.org/rfc/rfc9562#section-5.7
 */
export function rowId(kind: keyof typeof kinds, i: number): string {
  const time = (epochMs + i * stepMs).toString(16).padStart(12, '0');
  return `${time.slice(0, 8)}-${time.slice(8)}-700${kinds[kind]}-8000-${i.toString(16).padStart(12, '0')}`;
}

/** The same in SQL, for a column that counts from 1. */
export const rowIdSql = (kind: keyof typeof kinds, i: string): string =>
  `(lpad(to_hex(${epochMs} + (${i})::bigint * ${stepMs}), 12, '0') || '700${kinds[kind]}8000' || lpad(to_hex((${i})::bigint), 12, '0'))::uuid`;

/** The one host. Nobody runs anything there. */
export const hostId = '019b7600-0000-7009-8000-000000000001';

/** A client's id, as the server makes them. @see https://relay.dev/graphql/objectidentification.htm */
export const globalId = (type: string, id: string): string => Buffer.from(`${type}:${id}`).toString('base64');

/** The API key of a user, with the role MEMBER. The first users own the workspaces of the same numbers. */
export const apiKey = (user: number): string =>
  `sy_${createHash('sha256').update(`bench key ${user}`).digest('base64url')}`;
export const apiKeyHash = (user: number): string => createHash('sha256').update(apiKey(user)).digest('hex');

export const slug = (workspace: number): string => `workspace-${workspace}`;
/** Which workspace the i-th application, or user, belongs to. */
export const workspaceOf = (shape: Shape, i: number): number => ((i - 1) % shape.workspaces) + 1;

/** Which application the i-th deployment is of: odd ones are of the busy applications, in turn. */
export function applicationOf(shape: Shape, i: number): number {
  const turn = Math.floor((i - 1) / 2);
  return i % 2 === 1 ? (turn % shape.busy) + 1 : shape.busy + (turn % (shape.applications - shape.busy)) + 1;
}

/** Numbers that look random and are the same every time (a linear congruential generator). */
export function seeded(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}
