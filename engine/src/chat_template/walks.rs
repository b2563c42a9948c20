//! What minijinja's fuel does not pay for: lists within lists, and lists joined to lists. Joined ones are not copied until some
//! dozen joins are one in another, and have billions of items then; a value can hold itself twice, sixty times over; and one
//! nested ten thousand deep overflows the stack when it is dropped. So whatever makes a list or a mapping is sent through a
//! filter, which walks through it for fuel and bounds how deep it is.

use std::ops::Range;

use minijinja::{
    Error, ErrorKind, State, Value,
    machinery::{
        ast::{BinOpKind, Call, CallArg, Expr, Spanned, Stmt},
        parse,
    },
    syntax::SyntaxConfig,
    value::ValueKind,
};

/// Name of the filter [`walk`]; no template can define one.
pub(super) const FILTER: &str = "__walk";

/// Name of the filter [`walk_held`].
pub(super) const HELD_FILTER: &str = "__walk_held";

/// Deepest nesting of lists and mappings.
const MAX_DEPTH: usize = 64;

/// The source with everything that makes a list or a mapping sent through the filter.
///
/// # Errors
/// Those of the template's syntax.
pub(super) fn with_walks(source: &str, name: &str, syntax: SyntaxConfig) -> Result<String, Error> {
    let mut spans = Vec::new();
    in_statement(source, &parse(source, name, syntax)?, &mut spans);
    let mut insertions = Vec::with_capacity(2 * spans.len());
    for (span, end) in spans {
        insertions.push((span.start, "(("));
        insertions.push((span.end, end));
    }
    insertions.sort_by_key(|(at, _)| *at);
    let (mut result, mut copied) = (String::with_capacity(2 * source.len()), 0);
    for (at, text) in insertions {
        result.push_str(source.get(copied..at).unwrap_or_default());
        result.push_str(text);
        copied = at;
    }
    result.push_str(source.get(copied..).unwrap_or_default());
    Ok(result)
}

/// What ends an expression that begins with two parentheses, and one that a namespace will hold.
const END: &str = ")|__walk)";
const HELD_END: &str = ")|__walk_held)";

/// A place in the source, and what ends it.
type Places = Vec<(Range<usize>, &'static str)>;

/// The filter: the value as it is.
///
/// # Errors
/// One without fuel for all items, or for a value that is nested too deep.
pub(super) fn walk(state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
    visit(state, &value, 0, false)?;
    Ok(value)
}

/// As [`walk`] for what a namespace is to hold, which is no namespace: it could hold the other one, and have no end.
pub(super) fn walk_held(state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
    visit(state, &value, 0, true)?;
    Ok(value)
}

fn visit(state: &State<'_, '_>, value: &Value, depth: usize, is_held: bool) -> Result<(), Error> {
    if !matches!(
        value.kind(),
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable
    ) {
        return Ok(());
    }
    let is_namespace = |value: &Value| {
        let object = value.as_object();
        object.is_some_and(|it| it.type_name().ends_with("::Namespace"))
    };
    if is_held && is_namespace(value) {
        let reason = "a namespace cannot hold a namespace";
        return Err(Error::new(ErrorKind::InvalidOperation, reason));
    }
    if depth > MAX_DEPTH {
        let reason = format!("a value is nested more than {MAX_DEPTH} deep");
        return Err(Error::new(ErrorKind::InvalidOperation, reason));
    }
    let is_map = value.kind() == ValueKind::Map;
    for item in value.try_iter()? {
        state.consume_fuel(1)?;
        let item = if is_map { value.get_item(&item)? } else { item };
        visit(state, &item, depth + 1, is_held)?;
    }
    Ok(())
}

fn in_statements(source: &str, statements: &[Stmt<'_>], spans: &mut Places) {
    for statement in statements {
        in_statement(source, statement, spans);
    }
}

fn in_statement(source: &str, statement: &Stmt<'_>, spans: &mut Places) {
    match statement {
        Stmt::Template(it) => in_statements(source, &it.children, spans),
        // What is only written out is no part of another value.
        Stmt::EmitExpr(it) => in_parts(&it.expr, spans),
        Stmt::ForLoop(it) => {
            in_expressions([&it.iter].into_iter().chain(&it.filter_expr), spans);
            in_statements(source, &it.body, spans);
            in_statements(source, &it.else_body, spans);
        }
        Stmt::IfCond(it) => {
            in_expression(&it.expr, spans);
            in_statements(source, &it.true_body, spans);
            in_statements(source, &it.false_body, spans);
        }
        Stmt::WithBlock(it) => {
            in_expressions(it.assignments.iter().map(|(_, value)| value), spans);
            in_statements(source, &it.body, spans);
        }
        Stmt::Set(it) => {
            // A sum, list or mapping that is set is walked through once, not twice.
            in_parts(&it.expr, spans);
            let (start, end) = (it.span().start_offset as usize, it.span().end_offset as usize);
            let sign = source.get(start..end).and_then(|set| set.find('='));
            let is_held = matches!(it.target, Expr::GetAttr(_));
            let mark = if is_held { HELD_END } else { END };
            spans.extend(sign.map(|sign| (start + sign + 1..end, mark)));
        }
        Stmt::SetBlock(it) => {
            if let Some(filter) = &it.filter {
                in_filters(filter, spans);
            }
            in_statements(source, &it.body, spans);
        }
        Stmt::AutoEscape(it) => {
            in_expression(&it.enabled, spans);
            in_statements(source, &it.body, spans);
        }
        Stmt::FilterBlock(it) => {
            in_filters(&it.filter, spans);
            in_statements(source, &it.body, spans);
        }
        Stmt::Block(it) => in_statements(source, &it.body, spans),
        Stmt::Import(it) => in_expression(&it.expr, spans),
        Stmt::FromImport(it) => in_expression(&it.expr, spans),
        Stmt::Extends(it) => in_expression(&it.name, spans),
        Stmt::Include(it) => in_expression(&it.name, spans),
        Stmt::Macro(it) => {
            in_expressions(&it.defaults, spans);
            in_statements(source, &it.body, spans);
        }
        Stmt::CallBlock(it) => {
            in_call(&it.call, spans);
            in_expressions(&it.macro_decl.defaults, spans);
            in_statements(source, &it.macro_decl.body, spans);
        }
        Stmt::Do(it) => in_call(&it.call, spans),
        Stmt::EmitRaw(_) | Stmt::Continue(_) | Stmt::Break(_) => {}
    }
}

fn in_expressions<'a>(expressions: impl IntoIterator<Item = &'a Expr<'a>>, spans: &mut Places) {
    for expression in expressions {
        in_expression(expression, spans);
    }
}

fn in_expression(expression: &Expr<'_>, spans: &mut Places) {
    let span = match expression {
        Expr::BinOp(it) if matches!(it.op, BinOpKind::Add | BinOpKind::Mul) => Some(it.span()),
        Expr::List(it) => Some(it.span()),
        Expr::Map(it) => Some(it.span()),
        // Calls and filters have the spans of their names only; what they make is walked through once it is set.
        _ => None,
    };
    spans.extend(span.map(|it| (it.start_offset as usize..it.end_offset as usize, END)));
    in_parts(expression, spans);
}

/// Filters that a block's text is sent through.
fn in_filters(filter: &Expr<'_>, spans: &mut Places) {
    if let Expr::Filter(it) = filter {
        in_arguments(&it.args, spans);
        if let Some(inner) = &it.expr {
            in_filters(inner, spans);
        }
    }
}

/// In what an expression is made of.
fn in_parts(expression: &Expr<'_>, spans: &mut Places) {
    match expression {
        Expr::Var(_) | Expr::Const(_) => {}
        Expr::Slice(it) => {
            in_expression(&it.expr, spans);
            in_expressions(it.start.iter().chain(&it.stop).chain(&it.step), spans);
        }
        Expr::UnaryOp(it) => in_expression(&it.expr, spans),
        Expr::BinOp(it) => in_expressions([&it.left, &it.right], spans),
        Expr::Compare(it) => {
            in_expression(&it.expr, spans);
            in_expressions(it.ops.iter().map(|it| &it.expr), spans);
        }
        Expr::IfExpr(it) => {
            in_expressions([&it.test_expr, &it.true_expr], spans);
            in_expressions(&it.false_expr, spans);
        }
        Expr::Filter(it) => {
            in_expressions(&it.expr, spans);
            in_arguments(&it.args, spans);
        }
        Expr::Test(it) => {
            in_expression(&it.expr, spans);
            in_arguments(&it.args, spans);
        }
        Expr::GetAttr(it) => in_expression(&it.expr, spans),
        Expr::GetItem(it) => in_expressions([&it.expr, &it.subscript_expr], spans),
        Expr::Call(it) => in_call(it, spans),
        Expr::List(it) => in_expressions(&it.items, spans),
        Expr::Tuple(it) => in_expressions(&it.items, spans),
        Expr::Map(it) => in_expressions(it.keys.iter().chain(&it.values), spans),
    }
}

fn in_call(call: &Spanned<Call<'_>>, spans: &mut Places) {
    in_expression(&call.expr, spans);
    in_arguments(&call.args, spans);
}

fn in_arguments(arguments: &[CallArg<'_>], spans: &mut Places) {
    for argument in arguments {
        match argument {
            CallArg::Pos(it) | CallArg::Kwarg(_, it) | CallArg::PosSplat(it) | CallArg::KwargSplat(it) => {
                in_expression(it, spans);
            }
        }
    }
}
