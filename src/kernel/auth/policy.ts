import type { Role } from '#prisma';
import { Forbidden, NotFound, Unauthenticated } from '../errors.ts';
import { atLeast, isPerson, workspacesWith, type Actor } from './actor.ts';
import { instanceWorkspaceId } from './instance.ts';

/**
 * Who may see a row, in a small closed form. One rule serves as the type's guard and as the `where` of every list,
 * count and aggregate of it, so that the two cannot differ.
 */
export type RowRule =
  /** The row's workspace column is one of the actor's workspaces, with at least this role. */
  | { readonly by: 'workspace'; readonly column: string; readonly least: Role }
  /** The row's column is the actor's user id; with `person`, only when they act themselves and not a key for them. */
  | { readonly by: 'self'; readonly column: string; readonly person?: true }
  /** A to-many relation of the row has a row that passes. */
  | { readonly by: 'some'; readonly relation: string; readonly rule: RowRule }
  | { readonly by: 'any'; readonly rules: readonly RowRule[] }
  | { readonly by: 'all'; readonly rules: readonly RowRule[] }
  /** Seen only inside its parent, which has a rule: no node, no list of its own. */
  | { readonly by: 'parent' };

export const inWorkspace = (least: Role = 'VIEWER', column = 'workspaceId'): RowRule => ({
  by: 'workspace',
  column,
  least,
});
export const self = (column: string): RowRule => ({ by: 'self', column });
export const selfInPerson = (column: string): RowRule => ({ by: 'self', column, person: true });
export const some = (relation: string, rule: RowRule): RowRule => ({ by: 'some', relation, rule });
export const anyOf = (...rules: RowRule[]): RowRule => ({ by: 'any', rules });
export const allOf = (...rules: RowRule[]): RowRule => ({ by: 'all', rules });
export const withParent: RowRule = { by: 'parent' };

/** A verb and the least role that may use it. `public` and `user` verbs belong to no workspace. */
export interface Verb {
  /** `<domain>.<verb>`, for instance `deployments.createDeployment`. */
  readonly name: string;
  readonly least: Role | 'public' | 'user';
  /** Whether operators may use it in the server's own workspace, which has no members and none of the product. */
  readonly inInstance?: boolean;
}

export interface Policy<V extends string = string> {
  readonly domain: string;
  readonly verbs: Readonly<Record<V, Verb>>;
  /** Rule by Prisma model. */
  readonly rows: Readonly<Record<string, RowRule>>;
}

const rowRules = new Map<string, RowRule>();
const policies: Policy[] = [];

/** Declares a domain's policy: its verbs with their least roles, and the row rules of its models. */
export function definePolicy<const V extends string>(
  domain: string,
  declared: {
    verbs: Readonly<Record<V, Verb['least']>>;
    rows: Readonly<Record<string, RowRule>>;
    /** Verbs for the server's own workspace, too; default: none. */
    inInstance?: readonly NoInfer<V>[];
  },
): Policy<V> {
  const verbs = Object.fromEntries(
    Object.entries<Verb['least']>(declared.verbs).map(([verb, least]) => [
      verb,
      { name: `${domain}.${verb}`, least, inInstance: declared.inInstance?.includes(verb as V) ?? false },
    ]),
  ) as Record<V, Verb>;
  for (const [model, rule] of Object.entries(declared.rows)) {
    if (rowRules.has(model)) throw new Error(`Two row rules for ${model}`);
    rowRules.set(model, rule);
  }
  const policy = { domain, verbs, rows: declared.rows };
  policies.push(policy);
  return policy;
}

/** Every policy declared so far, for the generated documentation and the tenancy tests. */
export const allPolicies = (): readonly Policy[] => policies;

export function rowRule(model: string): RowRule {
  const rule = rowRules.get(model);
  if (!rule) throw new Error(`No row rule for ${model}: add it to its domain's policy.ts`);
  return rule;
}

/** True when who sees a row depends on more of the actor than the role in the row's own workspace. */
export function isPersonal(rule: RowRule): boolean {
  switch (rule.by) {
    case 'self':
    case 'some':
      return true;
    case 'any':
    case 'all':
      return rule.rules.some(isPersonal);
    case 'workspace':
    case 'parent':
      return false;
    default:
      return rule satisfies never;
  }
}

/** A Prisma `where` that holds for exactly the rows that the actor may see. */
export type Where = Record<string, unknown>;

export function rowsOf(model: string, actor: Actor): Where {
  return actor === anyActor ? { [ruledBy]: model } : whereOf(rowRule(model), actor);
}

/** In what `rowsOf` gives for `anyActor`: the model whose rule holds. */
export const ruledBy = '$ruledBy';

/**
 * Stands for whoever will ask, where a `where` is made once for all of them: `rowsOf` names the rule instead of applying
 * it. Nothing can be read of them, so that nothing of one actor gets into what others use.
 */
export const anyActor: Actor = new Proxy({} as Actor, {
  get(_, name) {
    throw new Error(`Nobody asks yet: ${String(name)} is not known`);
  },
});

function whereOf(rule: RowRule, actor: Actor): Where {
  switch (rule.by) {
    case 'workspace':
      return { [rule.column]: { in: workspacesWith(actor, rule.least) } };
    case 'self':
      return actor.userId && (!rule.person || isPerson(actor))
        ? { [rule.column]: actor.userId }
        : { [rule.column]: { in: [] } };
    case 'some':
      return { [rule.relation]: { some: whereOf(rule.rule, actor) } };
    case 'any':
      return { OR: rule.rules.map((one) => whereOf(one, actor)) };
    case 'all':
      return { AND: rule.rules.map((one) => whereOf(one, actor)) };
    case 'parent':
      return {};
    default:
      return rule satisfies never;
  }
}

/** True or false when the row's own columns decide; undefined when the database must be asked. */
export function decidedByRow(rule: RowRule, actor: Actor, row: Record<string, unknown>): boolean | undefined {
  switch (rule.by) {
    case 'workspace': {
      const role = actor.roles.get(String(row[rule.column]));
      return role !== undefined && atLeast(role, rule.least);
    }
    case 'self':
      return actor.userId !== null && row[rule.column] === actor.userId && (!rule.person || isPerson(actor));
    case 'some':
      return undefined;
    case 'any': {
      const answers = rule.rules.map((one) => decidedByRow(one, actor, row));
      if (answers.includes(true)) return true;
      return answers.includes(undefined) ? undefined : false;
    }
    case 'all': {
      const answers = rule.rules.map((one) => decidedByRow(one, actor, row));
      if (answers.includes(false)) return false;
      return answers.includes(undefined) ? undefined : true;
    }
    case 'parent':
      return true;
    default:
      return rule satisfies never;
  }
}

/** What is to be said to an actor who would use a verb in a workspace. */
function judge(
  actor: Actor,
  verb: Verb,
  workspaceId: string | null,
): 'ALLOWED' | 'UNAUTHENTICATED' | 'NOT_FOUND' | 'FORBIDDEN' {
  if (verb.least === 'public') return 'ALLOWED';
  if (actor.kind === 'ANONYMOUS') return 'UNAUTHENTICATED';
  if (verb.least === 'user') return isPerson(actor) ? 'ALLOWED' : 'FORBIDDEN';
  const role = workspaceId === null ? undefined : actor.roles.get(workspaceId);
  if (role === undefined) return 'NOT_FOUND';
  if (workspaceId === instanceWorkspaceId && !verb.inInstance) return 'FORBIDDEN';
  // Whatever role its token says: who administers is a person, or a key that one made.
  if (actor.kind === 'MACHINE' && atLeast(verb.least, 'ADMIN')) return 'FORBIDDEN';
  return atLeast(role, verb.least) && actor.scopes?.has(verb.name) !== false ? 'ALLOWED' : 'FORBIDDEN';
}

/** Whether `authorize` lets the actor use a verb in a workspace. */
export const may = (actor: Actor, verb: Verb, workspaceId: string | null): boolean =>
  judge(actor, verb, workspaceId) === 'ALLOWED';

/**
 * Lets the actor use a verb in a workspace, or throws.
 * @throws {Unauthenticated} when nobody is signed in
 * @throws {NotFound} for a workspace that the actor is no member of: strangers do not learn that it exists
 * @throws {Forbidden} for a member whose role is too low, or whose key is not for this verb, and for a machine that
 *   would administer
 */
export function authorize(
  actor: Actor,
  verb: Verb,
  workspaceId: string | null,
  target?: { kind: string; id: string },
): void {
  const verdict = judge(actor, verb, workspaceId);
  switch (verdict) {
    case 'ALLOWED':
      return;
    case 'UNAUTHENTICATED':
      throw new Unauthenticated();
    case 'NOT_FOUND':
      throw new NotFound(target?.kind ?? 'Workspace', target?.id ?? String(workspaceId), verb.name);
    case 'FORBIDDEN':
      if (verb.least === 'user') throw new Forbidden(verb.name);
      throw new Forbidden(verb.name, workspaceId, target ?? null);
    default:
      verdict satisfies never;
  }
}

/**
 * The same for a verb on a row that was looked up by a client's id.
 * @throws {NotFound} also when there is no such row
 */
export function authorizeRow<R extends { readonly workspaceId: string }>(
  actor: Actor,
  verb: Verb,
  row: R | null,
  kind: string,
  id: string,
): asserts row is R {
  if (actor.kind === 'ANONYMOUS') throw new Unauthenticated();
  if (!row) throw new NotFound(kind, id);
  authorize(actor, verb, row.workspaceId, { kind, id });
}
