import { refuse, type Column, type Model, type Relation } from './models.ts';
import { both, joined, maySee, type Statement } from './where.ts';

/** A row that is selected from, and what is joined to it: each join adds one row, so that their order stays. */
export class Row {
  readonly model: Model;
  readonly joins: string[];
  /** Alias of what has at least the row's id. */
  readonly key: string;
  /** The condition that it is there; null: it is. */
  readonly there: string | null;
  /** Whether its `where` lets only rows through that the rule of its model lets the actor see. */
  readonly isRuled: boolean;
  readonly #statement: Statement;
  readonly #origin: { readonly row: Row; readonly relation: Relation } | null;
  readonly #linked: Map<string, Row>;
  #alias: string | null;

  /** @param of.isKey whether the alias has the id alone: the rest is looked up when it is asked for */
  constructor(
    statement: Statement,
    model: Model,
    key: string,
    of: {
      isKey?: boolean;
      isRuled?: boolean;
      there?: string;
      joins?: string[];
      origin?: { row: Row; relation: Relation } | null;
      linked?: Map<string, Row>;
    } = {},
  ) {
    this.#statement = statement;
    this.model = model;
    this.key = key;
    this.joins = of.joins ?? [];
    this.there = of.there ?? null;
    this.isRuled = of.isRuled ?? false;
    this.#origin = of.origin ?? null;
    this.#linked = of.linked ?? new Map<string, Row>();
    this.#alias = of.isKey ? null : key;
  }

  /** Alias of what has all of its columns. */
  get alias(): string {
    this.#alias ??= this.#join('join', this.model, (there) => `${there}.${this.id} = ${this.key}.${this.id}`);
    return this.#alias;
  }

  /** The same where the condition that it is there is known to hold. */
  get present(): Row {
    if (this.there === null) return this;
    const { model, key, isRuled, joins } = this;
    return new Row(this.#statement, model, key, { isRuled, joins, origin: this.#origin, linked: this.#linked });
  }

  get id(): string {
    return this.model.columns.get('id')?.sql ?? refuse(`${this.model.name} has no id`);
  }

  /** The condition that rows of an alias are those of a relation of this one. */
  related(relation: Relation, there: string): string {
    const isById = this.model.columns.has('id') && relation.on.every(([here]) => here === this.id);
    return joined(relation, isById ? this.key : this.alias, there);
  }

  /** The row that a relation to one leads to. */
  link(name: string, relation: Relation, model: Model): Row {
    // Back by the same columns it leads to the same row.
    if (this.#origin && isBack(relation, this.#origin.relation) && model === this.#origin.row.model)
      return this.#origin.row;
    let linked = this.#linked.get(name);
    if (!linked) {
      const alias = this.#join('left join', model, (there) => this.related(relation, there));
      const there = `${alias}.${relation.on[0]?.[1]} is not null`;
      linked = new Row(this.#statement, model, alias, { joins: this.joins, there, origin: { row: this, relation } });
      this.#linked.set(name, linked);
    }
    return linked;
  }

  /** The row whose id is in a column, if the actor may see it. */
  named(column: Column, model: Model): Row {
    const name = `${column.sql} of ${model.name}`;
    let linked = this.#linked.get(name);
    if (!linked) {
      const id = model.columns.get('id')?.sql ?? refuse(`${model.name} has no id`);
      const here = `${this.alias}.${column.sql}`;
      const alias = this.#join('left join', model, (there) =>
        both(`${there}.${id} = ${here}`, maySee(this.#statement, model, there)),
      );
      linked = new Row(this.#statement, model, alias, {
        joins: this.joins,
        there: `${alias}.${id} is not null`,
        isRuled: true,
      });
      this.#linked.set(name, linked);
    }
    return linked;
  }

  /** What lies behind an offset is no subject of planning: it is a look-up for each row, in the order of the rows. */
  #join(how: string, model: Model, condition: (there: string) => string): string {
    const [inner, alias] = [this.#statement.alias(), this.#statement.alias()];
    const on = condition(inner);
    this.joins.push(`${how} lateral (select * from ${model.table} ${inner} where ${on} offset 0) ${alias} on true`);
    return alias;
  }
}

const isBack = ({ on }: Relation, other: Relation): boolean =>
  on.length === other.on.length &&
  on.every(([here, there], i) => other.on[i]?.[0] === there && other.on[i]?.[1] === here);
