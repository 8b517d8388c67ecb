import { refuse, type Column, type Model, type Relation } from './models.ts';
import { both, joined, maySee, type Statement } from './where.ts';

/** A row that is selected from, and what is joined to it: each join adds one row, so that their order stays. */
export class Row {
  readonly model: Model;
  readonly alias: string;
  readonly joins: string[];
  /** The condition that it is there; null: it is. */
  readonly there: string | null;
  /** Whether its `where` lets only rows through that the rule of its model lets the actor see. */
  readonly isRuled: boolean;
  readonly #statement: Statement;
  readonly #origin: { readonly row: Row; readonly relation: Relation } | null;
  readonly #linked: Map<string, Row>;
  /** Whether there is no other row beside it, so that how it is joined is left to the planner. */
  readonly isOne: boolean;

  constructor(
    statement: Statement,
    model: Model,
    alias: string,
    of: {
      isRuled?: boolean;
      isOne?: boolean;
      there?: string;
      joins?: string[];
      origin?: { row: Row; relation: Relation } | null;
      linked?: Map<string, Row>;
    } = {},
  ) {
    this.#statement = statement;
    this.model = model;
    this.alias = alias;
    this.joins = of.joins ?? [];
    this.there = of.there ?? null;
    this.isRuled = of.isRuled ?? false;
    this.isOne = of.isOne ?? false;
    this.#origin = of.origin ?? null;
    this.#linked = of.linked ?? new Map<string, Row>();
  }

  /** The same where the condition that it is there is known to hold. */
  get present(): Row {
    if (this.there === null) return this;
    const { model, alias, isRuled, joins } = this;
    return new Row(this.#statement, model, alias, {
      isRuled,
      isOne: this.isOne,
      joins,
      origin: this.#origin,
      linked: this.#linked,
    });
  }

  get id(): string {
    return this.model.columns.get('id')?.sql ?? refuse(`${this.model.name} has no id`);
  }

  /** The row that a relation to one leads to. */
  link(name: string, relation: Relation, model: Model): Row {
    // Back by the same columns it leads to the same row.
    if (this.#origin && isBack(relation, this.#origin.relation) && model === this.#origin.row.model)
      return this.#origin.row;
    let linked = this.#linked.get(name);
    if (!linked) {
      const alias = this.#join(model, (there) => joined(relation, this.alias, there));
      const there = `${alias}.${relation.on[0]?.[1]} is not null`;
      linked = new Row(this.#statement, model, alias, {
        isOne: this.isOne,
        joins: this.joins,
        there,
        origin: { row: this, relation },
      });
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
      const alias = this.#join(model, (there) =>
        both(`${there}.${id} = ${here}`, maySee(this.#statement, model, there, this.isOne)),
      );
      linked = new Row(this.#statement, model, alias, {
        isRuled: true,
        isOne: this.isOne,
        joins: this.joins,
        there: `${alias}.${id} is not null`,
      });
      this.#linked.set(name, linked);
    }
    return linked;
  }

  /** What lies behind an offset is no subject of planning: it is a look-up for each row, in the order of the rows. */
  #join(model: Model, condition: (there: string) => string): string {
    const alias = this.#statement.alias();
    if (this.isOne) this.joins.push(`left join ${model.table} ${alias} on ${condition(alias)}`);
    else {
      const inner = this.#statement.alias();
      const on = condition(inner);
      this.joins.push(
        `left join lateral (select * from ${model.table} ${inner} where ${on} offset 0) ${alias} on true`,
      );
    }
    return alias;
  }
}

const isBack = ({ on }: Relation, other: Relation): boolean =>
  on.length === other.on.length &&
  on.every(([here, there], i) => other.on[i]?.[0] === there && other.on[i]?.[1] === here);
