import type { Role } from '#prisma';
import { isPerson, workspacesWith, type Actor } from '../auth/actor.ts';
import { rowRule, ruledBy, type RowRule, type Where } from '../auth/policy.ts';
import { isId } from '../ids.ts';
import { columnOf, modelOf, refuse, relationOf, type Model, type Models, type Relation } from './models.ts';

/** What the parameters of a statement are taken from. */
export interface Asked {
  readonly actor: Actor;
  readonly variables: Readonly<Record<string, unknown>>;
}

export type Parameter = (asked: Asked) => unknown;

/** A parameter, or any other value of a type, at which the planner does not look: see `Statement.hidden`. */
export const hidden = (type: string, sql: string): string => `(select ${sql}::${type})::${type}`;

/** The workspace for all of whose members a statement answers, among what its parameters are taken from. */
export const followed = '#workspace';

/** The parameters and aliases of one statement. */
export class Statement {
  readonly models: Models;
  /**
   * Whether it answers for all who may look into one workspace, whoever they are. Rules only let more through for those
   * who reach more: so a row that a viewer of that workspace alone may see is one for all of them. Where that does not
   * let a row through, it is refused, and what lists by more than that is not compiled.
   */
  readonly isForAll: boolean;
  /** Whose part is being compiled, where several documents have one statement. */
  document: { readonly number: number; readonly variables: Readonly<Record<string, unknown>> } | null = null;
  /** Whether rows that the actor may see are more than those of the workspace where it is compiled: beside a person. */
  #beyond = false;
  /** Whether conditions on other tables are looked up for each row, and not joined: for pages, which need few rows. */
  #fenced = true;
  readonly parameters: Parameter[] = [];
  readonly #known = new Map<string, string>();
  #aliases = 0;

  constructor(models: Models, isForAll = false) {
    this.models = models;
    this.isForAll = isForAll;
  }

  alias(): string {
    return `t${this.#aliases++}`;
  }

  /** @param key parameters with the same key are one; that of a variable begins with `$`, that of what is none with `#` */
  parameter(get: Parameter, key?: string): string {
    const { document } = this;
    const ownKey = document && key?.startsWith('$') ? `${document.number} ${key}` : key;
    const known = ownKey === undefined ? undefined : this.#known.get(ownKey);
    if (known !== undefined) return known;
    const own: Parameter =
      document && !key?.startsWith('#') ? ({ actor }) => get({ actor, variables: document.variables }) : get;
    const made = `$${this.parameters.push(own)}`;
    if (ownKey !== undefined) this.#known.set(ownKey, made);
    return made;
  }

  /**
   * A parameter whose value the planner does not look at, so that it sees soon that one plan serves all values: planning
   * takes as long as executing does. For what says nothing of how many rows there will be.
   */
  hidden(type: string, get: Parameter, key?: string): string {
    return hidden(type, this.parameter(get, key));
  }

  /** A text with those of the parameters that it has: some parts were made and not needed. */
  finished(text: string): { readonly text: string; readonly parameters: readonly Parameter[] } {
    const used = [...new Set(text.match(/\$\d+/g))];
    return {
      text: text.replaceAll(/\$\d+/g, (one) => `$${used.indexOf(one) + 1}`),
      parameters: used.flatMap((one) => this.parameters[Number(one.slice(1)) - 1] ?? []),
    };
  }

  get fence(): string {
    return this.#fenced ? ' offset 0' : '';
  }

  /** Leaves it to the planner how conditions on other tables are looked up: for counts, which need all rows. */
  unfenced<T>(make: () => T): T {
    this.#fenced = false;
    try {
      return make();
    } finally {
      this.#fenced = true;
    }
  }

  get isBeyond(): boolean {
    return this.#beyond;
  }

  /** What it makes may depend on rows of more workspaces than one. */
  beyond<T>(make: () => T): T {
    const before = this.#beyond;
    this.#beyond = true;
    try {
      return make();
    } finally {
      this.#beyond = before;
    }
  }

  /** @param column that it is compared with: one value for columns of two types would be of none */
  value(value: unknown, column: string): string {
    // A point in time is that of the first who asked, not of who asks now.
    if (value instanceof Date) refuse('a date');
    const isText = [value].flat().every((one) => typeof one === 'string');
    return this.parameter(() => value, isText ? `${column} ${JSON.stringify(value)}` : undefined);
  }
}

export const joined = (relation: Relation, here: string, there: string): string =>
  relation.on.map(([a, b]) => `${there}.${b} = ${here}.${a}`).join(' and ');

export const both = (...conditions: readonly string[]): string =>
  conditions.filter((one) => one !== 'true').join(' and ') || 'true';

/**
 * True for the rows of a model that the actor may see, by its rule in the policy.
 * @param isOne whether it is asked of what was found for a single row: then the planner may see what it is compared with.
 *   By what the row itself is found it must not: it would go through all of a workspace's rows for the one with an id
 */
export const maySee = (statement: Statement, model: Model, alias: string, isOne = false): string =>
  ruled(statement, rowRule(model.name), model, alias, isOne);

/** The same for what is listed: what is not let through is not missed. */
function listed(statement: Statement, model: Model, alias: string): string {
  const rule = rowRule(model.name);
  const isSame = rule.by === 'parent' || (rule.by === 'workspace' && rule.least === 'VIEWER' && !statement.isBeyond);
  return statement.isForAll && !isSame
    ? refuse(`a list of ${model.name} for all`)
    : ruled(statement, rule, model, alias);
}

/** By the roles that somebody has, which are the same object for all requests for which they are remembered. */
const reach = new WeakMap<Actor['roles'], Map<Role, string>>();

/** The workspaces where the actor has at least this role, as PostgreSQL writes an array. */
function reachedBy(actor: Actor, least: Role): string {
  let known = reach.get(actor.roles);
  if (!known) reach.set(actor.roles, (known = new Map()));
  let ids = known.get(least);
  if (ids === undefined) known.set(least, (ids = `{${workspacesWith(actor, least).filter(isId).join(',')}}`));
  return ids;
}

/** A rule of the policy as a predicate: the third of its readings, next to `whereOf` and `decidedByRow`. */
export function ruled(statement: Statement, rule: RowRule, model: Model, alias: string, isOne = false): string {
  switch (rule.by) {
    case 'workspace': {
      const { least } = rule;
      if (statement.isForAll) {
        if (least !== 'VIEWER') return 'false';
        const here = statement.parameter(({ variables }) => variables[followed], followed);
        return `${alias}.${columnOf(model, rule.column).sql} = ${here}::uuid`;
      }
      const ids = statement.parameter(({ actor }) => reachedBy(actor, least), `with ${least}`);
      const reached = isOne ? `${ids}::uuid[]` : hidden('uuid[]', ids);
      return `${alias}.${columnOf(model, rule.column).sql} = any(${reached})`;
    }
    case 'self': {
      const { person } = rule;
      if (statement.isForAll) return 'false';
      const self = statement.parameter(
        ({ actor }) => (!person || isPerson(actor) ? actor.userId : null),
        `self ${String(person)}`,
      );
      return `${alias}.${columnOf(model, rule.column).sql} = ${self}::uuid`;
    }
    case 'some':
      return related(statement, model, rule.relation, alias, (to, there) =>
        ruled(statement, rule.rule, to, there, isOne),
      );
    case 'any':
      return `(${rule.rules.map((one) => ruled(statement, one, model, alias, isOne)).join(' or ') || 'false'})`;
    case 'all':
      return `(${rule.rules.map((one) => ruled(statement, one, model, alias, isOne)).join(' and ') || 'true'})`;
    case 'parent':
      return 'true';
    default:
      return rule satisfies never;
  }
}

/** A Prisma `where` as a predicate; what is not known here is not compiled. */
export function whereSql(statement: Statement, model: Model, alias: string, where: Where): string {
  const all = Object.entries(where).flatMap(([name, value]) => {
    if (value === undefined) return [];
    if (name === ruledBy) return [listed(statement, modelOf(statement.models, value as string), alias)];
    if (name === 'AND') return list(value).map((one) => whereSql(statement, model, alias, one));
    if (name === 'OR')
      return [`(${list(value).map((one) => whereSql(statement, model, alias, one)).join(' or ') || 'false'})`]; // prettier-ignore
    if (name === 'NOT')
      return list(value).map((one) => `not ${statement.beyond(() => whereSql(statement, model, alias, one))}`);
    if (model.relations.has(name)) return [relatedSql(statement, model, name, alias, value)];
    return comparisons(statement, model, alias, name, value);
  });
  return both(...all);
}

/** Whether a `where` holds only for rows that the rule of their model lets the actor see. */
export const isRuled = (where: Where, model: string): boolean =>
  where[ruledBy] === model || (where['AND'] !== undefined && list(where['AND']).some((one) => isRuled(one, model)));

const list = (value: unknown): Where[] => (Array.isArray(value) ? value : [value]) as Where[];

const operators: Readonly<Record<string, string>> = { gt: '>', gte: '>=', lt: '<', lte: '<=' };

function comparisons(statement: Statement, model: Model, alias: string, name: string, value: unknown): string[] {
  const column = columnOf(model, name);
  if (column.isList || column.type === 'Json') refuse(`a condition on ${model.name}.${name}`);
  const sql = `${alias}.${column.sql}`;
  const given = (one: unknown): string => statement.value(one, `${model.name}.${name}`);
  if (value === null) return [`${sql} is null`];
  if (typeof value !== 'object') return [`${sql} = ${given(value)}`];
  return Object.entries(value as Where).flatMap(([operator, operand]) => {
    if (operand === undefined) return [];
    if (operator === 'in' && Array.isArray(operand) && operand.every((one) => one !== null))
      return [`${sql} = any(${given(operand)})`];
    if (operator === 'not' && operand === null) return [`${sql} is not null`];
    if (operator === 'equals' && operand === null) return [`${sql} is null`];
    const sign = operator === 'equals' ? '=' : operators[operator];
    if (sign === undefined || operand === null || (typeof operand === 'object' && !(operand instanceof Date)))
      refuse(`the condition ${operator} on ${model.name}.${name}`);
    return [`${sql} ${sign} ${given(operand)}`];
  });
}

function related(
  statement: Statement,
  model: Model,
  name: string,
  alias: string,
  condition: (to: Model, there: string) => string,
): string {
  const relation = relationOf(model, name);
  const to = modelOf(statement.models, relation.model);
  const there = statement.alias();
  const conditions = both(joined(relation, alias, there), condition(to, there));
  return `exists (select 1 from ${to.table} ${there} where ${conditions}${statement.fence})`;
}

function relatedSql(statement: Statement, model: Model, name: string, alias: string, value: unknown): string {
  const holds = (where: Where) =>
    related(statement, model, name, alias, (to, there) =>
      statement.beyond(() => whereSql(statement, to, there, where)),
    );
  if (value === null) return `not ${holds({})}`;
  const filter = value as Where;
  if (relationOf(model, name).isList) {
    const [how, ...more] = Object.keys(filter);
    if (more.length > 0 || (how !== 'some' && how !== 'none')) refuse(`the condition on ${model.name}.${name}`);
    return `${how === 'none' ? 'not ' : ''}${holds(filter[how as 'some'] as Where)}`;
  }
  if (!('is' in filter)) return holds(filter);
  if (Object.keys(filter).length > 1) refuse(`the condition on ${model.name}.${name}`);
  return filter['is'] === null ? `not ${holds({})}` : holds(filter['is'] as Where);
}
