import { globalId } from '../data/shape.ts';

/** How a contender wants to be asked. `relay`: the server's own schema, and those that have a part of it. */
export type Dialect = 'relay' | 'postgraphile' | 'limit';

/** What is asked for, without a dialect. Numbers are those of the data's rows, from 1. */
export type Operation =
  | { readonly name: 'Q1'; readonly workspace: number; readonly deployment: string }
  | { readonly name: 'Q2'; readonly workspace: number; readonly slug: string }
  | {
      readonly name: 'Q3';
      readonly workspace: number;
      readonly application: string;
      /** Row id of the last deployment of the page before; null: the first page. */
      readonly after: string | null;
    }
  | { readonly name: 'M1'; readonly workspace: number; readonly application: string };

const relay = {
  Q1: `query Q1($id: ID!) { node(id: $id) { ... on Deployment { id status ref createdAt application { name workspace { name } } } } }`,
  Q2: `query Q2($slug: String!) { workspace(slug: $slug) { applications(first: 20) { nodes { name deployments(first: 5) { nodes { id status createdAt actor { name } steps { name status } } } } } } }`,
  Q3: `query Q3($id: ID!, $after: String) { node(id: $id) { ... on Application { deployments(first: 50, after: $after) { nodes { id status ref createdAt actor { name } } totalCount pageInfo { hasNextPage } } } } }`,
  M1: `mutation M1($id: ID!) { createDeployment(input: { applicationId: $id, ref: "main" }) { ... on CreateDeploymentSuccess { deployment { id status ref } } } }`,
} as const;

const postgraphile = {
  Q1: `query Q1($id: UUID!) { node: deploymentByRowId(rowId: $id) { id: rowId ref run: runByRowId { status createdAt } application: applicationByApplicationId { name workspace: workspaceByWorkspaceId { name } } } }`,
  Q2: `query Q2($slug: String!) { workspace: workspaceBySlug(slug: $slug) { applications: applicationsByWorkspaceId(first: 20, orderBy: [CREATED_AT_DESC, ROW_ID_DESC]) { nodes { name deployments: deploymentsByApplicationId(first: 5, orderBy: [ROW_ID_DESC]) { nodes { id: rowId run: runByRowId { status createdAt actor: appUserByActorId { name } steps: runStepsByRunId(orderBy: [ROW_ID_ASC]) { nodes { name status } } } } } } } } }`,
  Q3: `query Q3($id: UUID!, $after: Cursor) { node: applicationByRowId(rowId: $id) { deployments: deploymentsByApplicationId(first: 50, after: $after, orderBy: [ROW_ID_DESC]) { nodes { id: rowId ref run: runByRowId { status createdAt actor: appUserByActorId { name } } } totalCount pageInfo { hasNextPage } } } }`,
  M1: `mutation M1($id: UUID!) { createDeployment: makeDeployment(input: { applicationId: $id, ref: "main" }) { deployment: result { id: rowId ref run: runByRowId { status } } } }`,
} as const;

/** To walk from page to page. */
export const cursorDocuments = {
  relay: `query C($id: ID!, $after: String) { node(id: $id) { ... on Application { deployments(first: 50, after: $after) { pageInfo { endCursor } } } } }`,
  postgraphile: `query C($id: UUID!, $after: Cursor) { node: applicationByRowId(rowId: $id) { deployments: deploymentsByApplicationId(first: 50, after: $after, orderBy: [ROW_ID_DESC]) { pageInfo { endCursor } } } }`,
} as const;

/**
 * The body of a request.
 * @param cursors a contender's own cursors, by the row id that they stand behind
 */
export function bodyOf(dialect: Dialect, operation: Operation, cursors: ReadonlyMap<string, string>): string {
  const query = (dialect === 'postgraphile' ? postgraphile : relay)[operation.name];
  const id = (type: string, row: string): string => (dialect === 'postgraphile' ? row : globalId(type, row));
  switch (operation.name) {
    case 'Q1':
      return JSON.stringify({ query, variables: { id: id('Deployment', operation.deployment) } });
    case 'Q2':
      return JSON.stringify({ query, variables: { slug: operation.slug } });
    case 'Q3': {
      const { after } = operation;
      const cursor = after === null || dialect === 'limit' ? after : cursors.get(after);
      if (cursor === undefined) throw new Error(`No cursor behind ${after}`);
      return JSON.stringify({ query, variables: { id: id('Application', operation.application), after: cursor } });
    }
    case 'M1':
      return JSON.stringify({ query, variables: { id: id('Application', operation.application) } });
    default:
      return operation satisfies never;
  }
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/**
 * An answer without what may differ: keys in order, ids of rows, instants in one form, what PostGraphile has in a table
 * of its own (`run`) where the others have it.
 */
export function normalised(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(normalised);
  if (isObject(value)) {
    const { run, ...rest } = value;
    const merged: Record<string, unknown> = isObject(run) ? { ...rest, ...run } : value;
    const entries = Object.entries(merged).map(([key, one]): [string, unknown] => {
      const isSteps = key === 'steps' && isObject(one);
      return [key, normalised(isSteps ? one['nodes'] : one)];
    });
    return Object.fromEntries(entries.toSorted(([a], [b]) => (a < b ? -1 : 1)));
  }
  if (typeof value !== 'string') return value;
  if (/^\d{4}-\d\d-\d\dT/.test(value)) return new Date(value).toISOString();
  return /^\w+:([0-9a-f-]{36})$/.exec(Buffer.from(value, 'base64').toString())?.[1] ?? value;
}

/** The text by which two answers to the same operation are compared. */
export function comparable(operation: Operation, answer: string): string {
  const text = JSON.stringify(normalised(JSON.parse(answer)), null, 1);
  // What it made has an id of its own.
  return operation.name === 'M1' ? text.replaceAll(/[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f-]{21}/g, 'ID') : text;
}
