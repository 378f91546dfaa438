-- Two databases on one server: what is true, and what Dagster shows of it.
create database catalog;
create database dagster;
