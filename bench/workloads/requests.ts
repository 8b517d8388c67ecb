import { applicationOf, globalId, rowId, seeded, slug, workspaceOf, type Shape } from '../data/shape.ts';
import type { Contender, Running } from '../contenders/index.ts';
import { times } from '../contenders/shared/times.ts';
import { post } from '../load/post.ts';
import { bodyOf, cursorDocuments, type Operation } from './documents.ts';

export type RequestWorkload = Operation['name'];

export const requestWorkloads: Readonly<Record<RequestWorkload, string>> = {
  Q1: 'one deployment with its application and workspace, by id',
  Q2: "a workspace's applications, 5 deployments of each, their people and steps",
  Q3: 'a page of 50 deployments of a busy application, with the count of all',
  M1: 'a mutation: run, deployment, 7 steps, event and job in one transaction',
};

export const isRequestWorkload = (name: string): name is RequestWorkload => name in requestWorkloads;

/** Pages that are asked for, of each busy application. */
const pages = 10;

/** The deployment that the page before a page ends with. */
function lastOf(shape: Shape, application: number, page: number): string {
  const all = Math.floor((Math.ceil(shape.deployments / 2) - application) / shape.busy) + 1;
  const index = all - 50 * page;
  return rowId('deployment', 2 * (application - 1 + index * shape.busy) + 1);
}

/** So many operations of a workload, the same every time. */
export function operations(workload: RequestWorkload, shape: Shape, count: number): Operation[] {
  const random = seeded(workload.charCodeAt(1));
  return Array.from({ length: count }, (_, index): Operation => {
    switch (workload) {
      case 'Q1': {
        const i = random(shape.deployments) + 1;
        const workspace = workspaceOf(shape, applicationOf(shape, i));
        return { name: workload, workspace, deployment: rowId('deployment', i) };
      }
      case 'Q2': {
        const workspace = random(shape.workspaces) + 1;
        return { name: workload, workspace, slug: slug(workspace) };
      }
      case 'Q3': {
        const i = random(shape.busy) + 1;
        const page = random(pagesOf(shape));
        const after = page === 0 ? null : lastOf(shape, i, page);
        return { name: workload, workspace: workspaceOf(shape, i), application: rowId('application', i), after };
      }
      case 'M1': {
        // In turn, so that no two that are under way are of one application.
        const i = (index % shape.applications) + 1;
        return { name: workload, workspace: workspaceOf(shape, i), application: rowId('application', i) };
      }
      default:
        return workload satisfies never;
    }
  });
}

const pagesOf = (shape: Shape): number =>
  Math.max(1, Math.min(pages, Math.floor(shape.deployments / 2 / shape.busy / 50)));

/** A contender's cursors, found by walking through the pages. */
export async function cursorsOf(contender: Contender, running: Running, shape: Shape): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  const { dialect } = contender;
  if (dialect === 'limit') return found;
  const walk = async (i: number): Promise<void> => {
    const row = rowId('application', i);
    let after: string | null = null;
    for (let page = 1; page < pagesOf(shape); page++) {
      const id = dialect === 'postgraphile' ? row : globalId('Application', row);
      const body = JSON.stringify({ query: cursorDocuments[dialect], variables: { id, after } });
      const answer = await post(running.url, body, contender.authorization(workspaceOf(shape, i)));
      const cursor = (JSON.parse(answer) as { data?: { node?: { deployments: { pageInfo: { endCursor: string } } } } })
        .data?.node?.deployments.pageInfo.endCursor;
      if (!cursor) throw new Error(`${contender.name} gave no cursor: ${answer.slice(0, 500)}`);
      after = cursor;
      found.set(lastOf(shape, i, page), cursor);
    }
  };
  await times(shape.busy, (index) => walk(index + 1));
  return found;
}

/** A request as the load generators take it. */
export interface Request {
  readonly authorization: string | null;
  readonly body: string;
}

export const requestOf = (
  contender: Contender,
  operation: Operation,
  cursors: ReadonlyMap<string, string>,
): Request => ({
  authorization: contender.authorization(operation.workspace),
  body: bodyOf(contender.dialect, operation, cursors),
});
